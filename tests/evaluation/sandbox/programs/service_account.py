# expect: failed PermissionError|FileNotFoundError
print(open("/var/run/secrets/kubernetes.io/serviceaccount/token").read())
