# expect: failed PermissionError
import os

while True:
    os.fork()
