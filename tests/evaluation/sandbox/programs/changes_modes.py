# expect: failed PermissionError
import os

os.chmod("@SECRET@", 0o777)
