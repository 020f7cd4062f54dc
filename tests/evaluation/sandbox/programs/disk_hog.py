# expect: too_much_disk wrote more than
number = 0
while True:
    number += 1
    with open(f"file{number}", "wb") as file:
        file.write(bytes(1 << 20))
