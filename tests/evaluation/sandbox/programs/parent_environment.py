# expect: failed PermissionError
import os

print(open(f"/proc/{os.getppid()}/environ", "rb").read())
