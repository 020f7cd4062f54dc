"""What tests of networks share: no authorities or proxies of this machine, and servers of their own."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorapar import network
from tests.network.servers import Refusing, make_certificate, serving

VARIABLES = (network.OWN_VARIABLE, *network.SHARED_VARIABLES, network.S3_VARIABLE)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No authorities or proxies of the machine that tests run on, and keys that let boto3 ask at all."""
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "cache"))
    network._combined.cache_clear()
    for name in (*VARIABLES, "SSL_CERT_DIR", *(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL", "NO"))):
        # Set and then deleted, so that what the code sets is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in {
        "ACCESS_KEY_ID": "test-key-id",
        "SECRET_ACCESS_KEY": "test-secret",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address of a server, file of its authority), for a certificate that no public authority has signed."""
    folder = tmp_path_factory.mktemp("company")
    make_certificate(folder)
    with serving(folder) as address:
        yield address, folder / "ca.crt"


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        server.daemon_threads = True  # clients that keep their connection are not waited for
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
