"""The way to an endpoint: whose certificate is trusted, which proxy is asked, and who is named where none answers."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lorapar.config import EndpointOptions
from lorapar.errors import BadInputError, UnreachableError
from lorapar.voting.endpoint_client import EndpointClient, Login, is_same_host

OPTIONS = EndpointOptions(attempts=2, timeout_seconds=5.0, max_wait_seconds=0.01)
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "LORAPAR_CA_BUNDLE")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch) -> None:
    """No proxies or authorities of the machine that tests run on."""
    for name in (*VARIABLES, *(name.lower() for name in VARIABLES), *AUTHORITIES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def models(address, options=OPTIONS):
    """What an endpoint answers to the simplest question."""
    import asyncio

    async def ask():
        client = EndpointClient(address, options, Login(address, options, {}))
        try:
            return await client.get("/models")
        finally:
            await client.close()

    return asyncio.run(ask())


def refusal(address) -> str:
    with pytest.raises((BadInputError, UnreachableError)) as caught:
        models(address)
    return str(caught.value)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data = b'{"data": []}'
        status = 407 if "x-wants-password" in self.path else 200
        if "blocked" in self.path:
            status, data = 403, b"<html><title>Blocked</title></html>"
        self.send_response(status)
        if "marked" in self.path:
            self.send_header("Content-Type", "application/json; charset=utf-16")
            data = b"\xef\xbb\xbf" + data
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us is no news."""


@pytest.fixture
def server():
    """An HTTP server that answers as an endpoint, or as a proxy that is asked for one."""
    found = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def nobody() -> int:
    """A port where nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_named(monkeypatch, nobody, scheme) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:password-1@127.0.0.1:{nobody}")
    message = refusal(f"{scheme}://teacher.invalid/v1")
    assert f"the proxy http://127.0.0.1:{nobody}" in message
    assert "password-1" not in message


def test_an_endpoint_that_does_not_answer_is_blamed_itself(nobody) -> None:
    message = refusal(f"http://127.0.0.1:{nobody}/v1")
    assert message.startswith(f"http://127.0.0.1:{nobody}/v1/models: the connection failed")
    assert "proxy" not in message


def test_an_address_that_has_vanished_is_not_connected_to_for_as_long_as_an_answer_may_take(monkeypatch) -> None:
    monkeypatch.setattr("lorapar.voting.endpoint_client.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        told = refusal(f"http://127.0.0.1:{full.getsockname()[1]}/v1")  # who comes after the first one hears nothing
    assert "no connection within 0.2 s, after 2 tries" in told


def test_a_proxy_that_opens_no_way_is_named_with_its_answer(monkeypatch, server) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.server_port}")
    message = refusal("https://teacher.invalid/v1")
    assert f"the proxy http://127.0.0.1:{server.server_port}" in message
    assert "403" in message


def test_a_proxy_that_wants_a_password_is_named(monkeypatch, server) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    message = refusal("http://teacher.invalid/x-wants-password")
    assert "407" in message
    assert f"the proxy http://127.0.0.1:{server.server_port}" in message
    assert "password" in message


@pytest.mark.parametrize("without", ["127.0.0.1", "127.0.0.0/8", "127.0.0.1:{port}", "other.invalid, 127.0.0.1", "*"])
def test_hosts_of_no_proxy_are_asked_directly(monkeypatch, server, nobody, without) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{nobody}")
    monkeypatch.setenv("NO_PROXY", without.format(port=server.server_port))
    assert models(f"http://127.0.0.1:{server.server_port}/v1") == {"data": []}


def test_a_proxy_that_works_is_used(monkeypatch, server) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    assert models("http://teacher.invalid/v1") == {"data": []}


def test_a_proxy_that_cannot_be_one_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy:21")
    assert "HTTPS_PROXY" in refusal("https://teacher.invalid/v1")


def test_nothing_of_a_password_that_breaks_a_proxys_address_is_shown(monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:tulip/daisy@proxy:3128")
    message = refusal("https://teacher.invalid/v1")
    assert "%2F" in message
    assert "tulip" not in message
    assert "daisy" not in message


def test_a_page_that_came_through_a_proxy_is_not_the_endpoints_own(monkeypatch, server) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    message = refusal("http://teacher.invalid/blocked")
    assert "HTTP 403 an HTML page ('Blocked') through the proxy http://127.0.0.1" in message


def test_a_body_is_utf_8_whatever_its_header_says(server) -> None:
    assert models(f"http://127.0.0.1:{server.server_port}/marked") == {"data": []}


@pytest.mark.parametrize("written", ["sk-tulip-1", '"sk-tulip-1"', "'Bearer sk-tulip-1'", "bearer  sk-tulip-1\n"])
def test_a_key_is_sent_without_what_was_copied_with_it(written) -> None:
    login = Login("http://teacher", EndpointOptions(api_key_env="KEY"), {"KEY": written})
    assert login.headers() == {"Authorization": "Bearer sk-tulip-1"}


@pytest.fixture
def private(tmp_path, server):
    """The server behind a certificate that is its own authority; gives the address and the certificate's file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(1))
    made = builder.not_valid_after(now + datetime.timedelta(1)).add_extension(names, False).sign(key, hashes.SHA256())
    file, secret = tmp_path / "ca.crt", tmp_path / "ca.key"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, secret)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return f"https://127.0.0.1:{server.server_port}/v1", file


def test_a_private_authority_is_reported_with_what_to_set(private) -> None:
    message = refusal(private[0])
    assert "not trusted" in message
    assert "SSL_CERT_FILE" in message
    assert "tries" not in message  # trying again would not help


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_an_authority_is_trusted_that_the_environment_names(monkeypatch, private, variable) -> None:
    monkeypatch.setenv(variable, str(private[1]))
    assert models(private[0]) == {"data": []}


def test_a_file_of_authorities_that_is_none_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "none.pem cannot be read" in refusal("https://teacher.invalid/v1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a/v1", "http://a/v1/", True),
        ("http://a/v1", "https://a/v1", True),
        ("http://a:80/v1", "http://a/v1", True),
        ("https://a/v1", "http://a/v1", False),
        ("http://a/v1", "http://a:81/v1", False),
        ("http://a/v1", "http://b/v1", False),
        ("http://a/v1", "file:///etc/passwd", False),
    ],
)
def test_a_key_goes_along_with_a_redirect_only_to_its_own_host(one, other, same) -> None:
    assert is_same_host(one, other) is same
