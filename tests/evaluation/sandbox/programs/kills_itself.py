# expect: died SIGKILL|SIGSEGV
import os, signal

os.kill(os.getpid(), signal.SIGSEGV)
