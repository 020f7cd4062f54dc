# expect: failed PermissionError
import os

os.execv("/bin/sh", ["sh", "-c", "echo escaped"])
