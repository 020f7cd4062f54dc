# expect: died verdict
import os

while True:
    os.write(3, b"0" * 1000)
