# expect: failed PermissionError
import os, sys

os.execv(sys.executable, [sys.executable, "-c", "import socket; socket.socket()"])
