"""A container registry for tests, written from the OCI distribution specification (pull, push, one-piece uploads).

It checks what a real one checks: the digest of a blob, that a manifest's blobs are there, and, where it has a user, a
token that was asked for with the user's password. A real registry (Debian's `docker-registry`) stands in for it where
it is installed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit


class OciDouble(ThreadingHTTPServer):
    """Blobs and manifests in memory."""

    def __init__(self, user: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.user = user
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.loses = False
        """Whether uploads are accepted and forgotten."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: OciDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if place.path == "/token":
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            right = base64.b64decode(given).decode() == self.server.user
            scope = parse_qs(place.query).get("scope")
            self._answer(200 if right and scope else 401, json.dumps({"token": "open-sesame"}).encode())
        elif self._allowed():
            kind, reference = place.path.split("/")[-2:]
            found = (self.server.manifests if kind == "manifests" else self.server.blobs).get(reference)
            self._answer(404, b'{"errors": []}') if found is None else self._answer(200, found)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self._allowed():
            self._answer(202, b"", Location=f"{self.path}some-id?state=1")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed():
            return
        place, digest = urlsplit(self.path), f"sha256:{hashlib.sha256(body).hexdigest()}"
        if "/manifests/" in place.path:
            manifest = json.loads(body)
            blobs = [manifest["config"], *manifest["layers"]]
            if not self.server.loses and any(one["digest"] not in self.server.blobs for one in blobs):
                self._answer(404, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown"}]}')
                return
            self.server.manifests |= {place.path.rpartition("/")[2]: body, digest: body}
        elif parse_qs(place.query) != {"state": ["1"], "digest": [digest]}:
            self._answer(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}')
            return
        elif not self.server.loses:
            self.server.blobs[digest] = body
        self._answer(201, b"")

    def _allowed(self) -> bool:
        if self.server.user is None or self.headers.get("Authorization") == "Bearer open-sesame":
            return True
        realm = f'Bearer realm="http://{self.server.host}/token",service="double"'
        self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}', **{"WWW-Authenticate": realm})
        return False

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def double(user: str | None = None) -> Iterator[OciDouble]:
    """A running one."""
    server = OciDouble(user)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def real_registry(program: str, folder: Path) -> Iterator[str]:
    """The host of a running `docker-registry` whose blobs lie in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\n"
        f"http: {{addr: '{host}'}}\n"
    )
    with subprocess.Popen([program, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not _answers(host):
                assert process.poll() is None, "docker-registry ended"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield host
        finally:
            process.terminate()


def _answers(host: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://{host}/v2/", timeout=5).status == 200)
    except OSError:
        return False


def layer_files(layer: bytes) -> dict[str, bytes]:
    """The files of a layer, by their path in it."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        entries = [one for one in tar if one.isfile()]
        assert all(re.fullmatch(r"models/[\w./-]+", one.name) and one.mtime == 0 for one in entries)
        return {one.name: tar.extractfile(one).read() for one in entries}
