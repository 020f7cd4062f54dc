"""An S3 server in memory that remembers each request and refuses what a test tells it to: no signatures, one bucket."""

from __future__ import annotations

import hashlib
import html
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_MODIFIED = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """Such as `PUT`, `POST uploads`, `PUT partNumber`, `COPY`."""
        if "x-amz-copy-source" in self.headers:
            return "COPY"
        known = [name for name in ("uploads", "partNumber", "uploadId", "list-type", "delete") if name in self.query]
        return " ".join([self.method, *known[:1]])


Refusal = Callable[[Request], tuple[int, str, str] | None]
"""Status, code and message, or None."""


@dataclass
class S3InMemory:
    """The server; `refuse` decides about each request before anything is done."""

    refuse: Refusal = lambda request: None
    done_as: Callable[[Request], bytes | None] = lambda request: None
    """What a request is answered with instead of being done, with status 200."""
    host: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    parts: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> S3InMemory:
        kind = type("OfItsFamily", (_Server,), {"address_family": socket.AF_INET6}) if ":" in self.host else _Server
        self._server = kind((self.host, 0), _Handler)
        self._server.state = self
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Address to give to boto3."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self._server.server_address[1]}"

    def of(self, operation: str) -> list[Request]:
        """The requests of one kind."""
        return [request for request in self.requests if request.operation == operation]


class _Server(ThreadingHTTPServer):
    state: S3InMemory


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        state, url = self.server.state, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = _unchunked(body)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        request = Request(self.command, key, parse_qs(url.query, keep_blank_values=True), headers, body)
        if bucket:
            state.requests.append(request)
        refused = state.refuse(request) if bucket else None
        if refused:
            status, code, message = refused
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return self.answer(status, text.encode(), Content_Type="application/xml")
        if bucket and (body := state.done_as(request)) is not None:
            return self.answer(200, body)
        return self.done(request)

    def done(self, request: Request) -> None:
        operation, key, objects = request.operation, request.key, self.server.state.objects
        if operation == "POST delete":
            for found in re.findall(r"<Key>(.*?)</Key>", request.body.decode()):
                objects.pop(html.unescape(found), None)
            return self.answer(200, b"<DeleteResult/>")
        if operation == "GET list-type" or not key:
            return self.answer(200, _listing(objects, request.query.get("prefix", [""])[0]))
        if operation == "POST uploads":
            upload = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            return self.answer(200, upload.encode())
        if operation == "PUT partNumber":
            parts = self.server.state.parts
            parts[key] = parts.get(key, b"") + request.body
            return self.answer(200, ETag='"part"')
        if operation == "POST uploadId":
            objects[key] = self.server.state.parts.pop(key)
            return self.answer(200, b"<CompleteMultipartUploadResult/>")
        if operation == "COPY":
            return self.answer(200, b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
        return self.plain(request)

    def plain(self, request: Request) -> None:
        key, objects, tag = request.key, self.server.state.objects, ""
        if key in objects:
            tag = f'"{_md5(objects[key])}"'
        if request.method == "DELETE":
            objects.pop(key, None)
            return self.answer(204)
        if request.method == "PUT":
            met = request.headers.get("if-match", tag) == tag
            if not met or (request.headers.get("if-none-match") and tag):
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            objects[key] = request.body
            return self.answer(200, ETag=f'"{_md5(request.body)}"')
        if not tag:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        whole = objects[key]
        facts = {"ETag": tag, "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if "range" not in request.headers:
            return self.answer(200, whole, **facts)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        end = min(int(last or len(whole)), len(whole) - 1)
        return self.answer(206, whole[int(first) : end + 1], Content_Range=f"bytes {first}-{end}/{len(whole)}", **facts)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_one


def _unchunked(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            break
        found, data = found + data[:length], data[length + 2 :]
    return found


def _listing(objects: dict[str, bytes], prefix: str) -> bytes:
    rows = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>&quot;{_md5(data)}&quot;</ETag>"
        f"<LastModified>{_MODIFIED}</LastModified></Contents>"
        for key, data in sorted(objects.items())
        if key.startswith(prefix)
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
