"""A small TCP proxy between boto3 and an S3 server that breaks connections in the ways networks do.

    with FaultProxy(server.port, plan) as proxy:
        use(f"http://127.0.0.1:{proxy.port}")

`plan` is asked once for every new connection and returns a Fault; `proxy.faults` counts what was done.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["none", "latency", "reset upload", "reset download", "truncate", "answer", "damage"]


@dataclass(frozen=True)
class Fault:
    """What happens to one connection."""

    kind: Kind = "none"
    after_bytes: int = 0
    """How much passes before: of what the client sends (`reset upload`) or of what the server answers."""
    seconds: float = 0.0
    """Pause before each piece (`latency`)."""
    status: str = "503 Slow Down"
    code: str = "SlowDown"
    message: str = "Please reduce your request rate."


def answer(status: str, code: str, message: str) -> Fault:
    """An error that the server itself is made to give, as AWS words it."""
    return Fault("answer", status=status, code=code, message=message)


class FaultProxy:
    """Listens on a free port of this machine and relays to `server_port`."""

    def __init__(self, server_port: int, plan: Callable[[], Fault]) -> None:
        self._server_port = server_port
        self._plan = plan
        self.faults: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def endpoint(self) -> str:
        """Address to give to boto3."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = self._plan()
            self.faults[fault.kind] += 1
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        if fault.kind == "answer":
            with contextlib.suppress(OSError):
                _answer(client, fault)
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), timeout=60)
        except OSError:  # the server is down: so is the proxy
            _reset(client)
            return
        threading.Thread(target=_relay, args=(client, server, fault, "reset upload"), daemon=True).start()
        _relay(server, client, fault, "reset download")


def _relay(source: socket.socket, target: socket.socket, fault: Fault, my_reset: str) -> None:
    """Pass bytes on until either side ends, or the fault is due."""
    passed = 0
    limit = fault.after_bytes if fault.kind in _AT_LIMIT[my_reset] else None
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if fault.kind == "latency":
                time.sleep(fault.seconds)
            if limit is not None and passed + len(data) > limit:
                cut = max(limit - passed, 0)
                if fault.kind == "damage":
                    data, limit = data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :], None
                else:
                    target.sendall(data[:cut])
                    break
            target.sendall(data)
            passed += len(data)
        else:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)
            return
    if fault.kind == "truncate":
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return
    _reset(source)
    _reset(target)


_AT_LIMIT = {"reset upload": ("reset upload",), "reset download": ("reset download", "truncate", "damage")}


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN, as a firewall or a crash does."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it, or nothing would be closed
    end.close()


def _answer(client: socket.socket, fault: Fault) -> None:
    """Read one whole request, then give the error."""
    client.settimeout(30)
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(65536)
        if not data:
            return
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if headers.get("expect") == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    left = int(headers.get("content-length", "0")) - len(body)
    while left > 0:
        data = client.recv(65536)
        if not data:
            return
        left -= len(data)
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{fault.code}</Code><Message>{fault.message}</Message>'
        "<RequestId>1</RequestId></Error>"
    ).encode()
    if lines[0].startswith("head "):
        xml = b""
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    client.sendall(
        f"HTTP/1.1 {fault.status}\r\nDate: {now}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(xml)}\r\nConnection: close\r\n\r\n".encode()
        + xml
    )
