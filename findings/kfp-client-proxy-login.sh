#!/usr/bin/env bash
# kfp 2.17.3 (kfp-server-api 2.17.3, urllib3 2.8.0) on Python 3.11.
#
# Guess: a proxy's address with user and password, given to kfp.Client(proxy=...), logs in there, as it does with requests.
# Seen: the address is taken and the login is dropped without a word. kfp hands only the address to urllib3, which sends
#   no Proxy-Authorization unless it is given as a header of its own (kfp_server_api/rest.py: proxy_headers is None). The
#   proxy answers 407 however right the password is. (Output: requests: Basic dXNlcjpyaWdodA==; kfp: none.)
# What to do: put the header into the client's connection pool yourself: rest.pool_manager.proxy_headers of each of its APIs.
#
# Prints the login that a proxy gets from either, for a request over plain HTTP, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "kfp-client-proxy-login.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kfp==2.17.3 kfp-server-api==2.17.3 urllib3==2.8.0
cd "$folder"
cat > logins.py <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kfp
import requests

seen = []


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(self.headers.get("Proxy-Authorization", "none"))
        body = b'{"experiments": [], "multi_user": false}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=server.serve_forever, daemon=True).start()
proxy = f"http://user:right@127.0.0.1:{server.server_port}"
requests.get("http://kubeflow.test/apis/v2beta1/healthz", proxies={"http": proxy}, timeout=10)
by_requests = seen[-1]
seen.clear()
kfp.Client(host="http://kubeflow.test", proxy=proxy).list_experiments()
print(f"requests: {by_requests}; kfp: {', '.join(sorted(set(seen)))}")
sys.exit(0 if by_requests.startswith("Basic ") and seen and set(seen) == {"none"} else 1)
PYTHON
env -u HTTP_PROXY -u http_proxy -u NO_PROXY -u no_proxy HOME="$folder" "$folder/venv/bin/python" logins.py 2>&1 | tail -n 1
