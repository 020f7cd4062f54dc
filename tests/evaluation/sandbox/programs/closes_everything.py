# expect: timed_out still running
import os, time

os.closerange(0, 64)
time.sleep(60)
