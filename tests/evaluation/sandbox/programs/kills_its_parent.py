# expect: failed PermissionError
import os, signal

os.kill(os.getppid(), signal.SIGKILL)
