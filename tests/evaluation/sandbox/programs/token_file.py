# expect: failed PermissionError
print(open("@SECRET@").read())
