# expect: too_much_disk|timed_out wrote more than|still running|used 2 s of CPU
import os, time

for _ in range(5000):
    os.mkdir("d")
    os.chdir("d")
time.sleep(60)
