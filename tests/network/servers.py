"""Servers that tests of networks ask: one with a certificate of its own, and proxies that ask who comes."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

SECRET = "hunter2hunter2"


class Anything(BaseHTTPRequestHandler):
    """Answers every request with JSON that is empty enough for each of the clients, and notes its path."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = b'{"multi_user": false, "runs": [], "items": [], "sha": "0"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that hang up because they do not trust it."""

    def handle_error(self, *request: object) -> None:
        pass


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server that shows the certificate in a folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "ca.key")
    kind = type("OfItsFamily", (Quiet,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    server = kind((host, 0), Anything)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def make_certificate(folder: Path, address: str = "127.0.0.1", days: tuple[int, int] = (-1, 1)) -> None:
    """A certificate for an address that is its own authority, valid between two days counted from now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now + datetime.timedelta(days[0])).add_extension(names, False)
    certificate = builder.not_valid_after(now + datetime.timedelta(days[1])).sign(key, hashes.SHA256())
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (folder / "ca.key").write_bytes(pem)


class Refusing(socketserver.StreamRequestHandler):
    """A proxy that wants to know who asks."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        self.connection.shutdown(socket.SHUT_WR)
        while self.rfile.read1():  # a body that is left unread would reset the connection
            pass


class Asking(socketserver.StreamRequestHandler):
    """A proxy that opens a way, or passes a request on, for one user alone; whatever the host, it leads to `target`."""

    user: ClassVar[str] = ""
    target: ClassVar[tuple[str, int]] = ("127.0.0.1", 0)
    asked: ClassVar[list[str]] = []

    def handle(self) -> None:
        first, headers = self.rfile.readline(), {}
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        given = headers.get(b"proxy-authorization", b"").removeprefix(b"Basic ")
        if base64.b64decode(given).decode(errors="replace") != self.user:
            self.wfile.write(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        method, place, _ = first.decode().split(" ", 2)
        self.asked.append(f"{method} {place}")
        with socket.create_connection(self.target) as behind:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                parts = urlsplit(place)
                body = self.rfile.read(int(headers.get(b"content-length") or 0))
                path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
                told = f"{method} {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
                behind.sendall(told.encode() + body)
            self._pass_on(behind)

    def _pass_on(self, behind: socket.socket) -> None:
        other = {behind: self.connection, self.connection: behind}
        while True:
            for ready in select.select(list(other), [], [], 10)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                other[ready].sendall(data)


@contextmanager
def asking_proxy(user: str, target: str) -> Iterator[str]:
    """HOST:PORT of a proxy that leads one user, `NAME:PASSWORD`, to the target address."""
    parts = urlsplit(target)
    kind = type("OfOneUser", (Asking,), {"user": user, "target": (parts.hostname, parts.port), "asked": []})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
