# expect: failed refused
import os

try:
    os.close(os.open("@SECRET@", os.O_RDONLY | os.O_TRUNC))
except PermissionError:
    try:
        os.truncate("@SECRET@", 0)
    except PermissionError:
        raise SystemExit("refused")
