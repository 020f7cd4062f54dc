# expect: failed PermissionError
print(open("/proc/@STAGE@/environ", "rb").read())
