# expect: failed PermissionError
import os

os.mkdir("../neighbour")
