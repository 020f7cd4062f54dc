# expect: too_much_disk|timed_out wrote more than|still running|used 2 s of CPU
number = 0
while True:
    number += 1
    open(f"file{number}", "w").close()
