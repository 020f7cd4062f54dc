# expect: too_much_disk|timed_out wrote more than|still running|used 2 s of CPU
number = 0
while True:
    number += 1
    with open(f"file{number}", "wb") as file:
        file.write(bytes(1 << 20))
