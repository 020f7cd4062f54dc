# expect: failed File too large
with open("file", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
