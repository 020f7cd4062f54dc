# expect: failed PermissionError
open("@HOME@/.bashrc", "a")
