# expect: failed PermissionError
import os

os.symlink("@SECRET@", "link")
