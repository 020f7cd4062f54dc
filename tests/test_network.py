"""One authority's file and one proxy variable reach every client, and what is in the way is said alike by all."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx2
import pytest

from lorapar import network
from lorapar.errors import BadInputError, UnreachableError

VARIABLES = (network.OWN_VARIABLE, *network.SHARED_VARIABLES, network.S3_VARIABLE)
SECRET = "hunter2hunter2"


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


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address of a server, file of its authority), for a certificate that no public authority has signed."""
    folder = tmp_path_factory.mktemp("company")
    make_certificate(folder)
    with serving(folder) as address:
        yield address, folder / "ca.crt"


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


def ask_kubeflow(address: str) -> None:
    from lorapar.kubeflow.server import Server, Where

    Server(Where(address)).runs(None, 5)


def ask_model_registry(address: str) -> None:
    from lorapar.registry.model_registry_client import ModelRegistryClient

    with ModelRegistryClient(address) as client:
        client._found_root()


def ask_webhook(address: str) -> None:
    from lorapar.kubeflow.summary import RunSummary
    from lorapar.kubeflow.webhook import post_summary

    post_summary(address + "/hook", "# page", RunSummary("r", "n", True, True, None, [], [], {}, []))


def ask_hub(address: str) -> None:
    from huggingface_hub import close_session, get_session

    from lorapar.basemodel.hub import hub_errors

    close_session()  # the library keeps one for the life of a process
    try:
        with pytest.MonkeyPatch.context() as patch, hub_errors("a/b", None, "model"):
            patch.setattr("huggingface_hub.constants.ENDPOINT", address)
            get_session().get(f"{address}/api/models/a/b").raise_for_status()
    finally:
        close_session()


def ask_store(address: str) -> None:
    from lorapar.store.s3_client import Connection
    from lorapar.store.s3_errors import s3_errors

    with pytest.MonkeyPatch.context() as patch, s3_errors("s3://bucket/key", address):
        patch.setenv("AWS_ENDPOINT_URL", address)
        client = Connection("s3://bucket").client
        client.get_object(Bucket="bucket", Key="key")


def ask_mlflow(address: str) -> None:
    """A tracker never ends a run, so that what is in the way is said and not raised."""
    from lorapar.tracking import Summary, TrackedRun, tracked

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        with tracked(["mlflow"], TrackedRun("a", "b", Path("unused")), said.append, Summary):
            pass
    if any(word in " ".join(said) for word in ("certificate", "proxy", "MaxRetryError", "Max retries")):
        raise UnreachableError(" ".join(said))


def ask_oci(address: str) -> None:
    from lorapar.registry.oci_client import OciClient, parse_oci_name

    with OciClient(parse_oci_name(f"{address}/a/b")) as client:
        client.find_manifest("latest")


Ask = Callable[[str], None]
CLIENTS: dict[str, Ask] = {
    "mlflow": ask_mlflow,
    "oci": ask_oci,
    "kubeflow": ask_kubeflow,
    "model registry": ask_model_registry,
    "webhook": ask_webhook,
    "hub": ask_hub,
    "store": ask_store,
}


def assert_reached(ask: Ask, address: str) -> None:
    """The server itself has had the request, and its answer was taken."""
    before = len(Anything.asked)
    ask(address)
    assert len(Anything.asked) > before


every_client = pytest.mark.parametrize("ask", CLIENTS.values(), ids=CLIENTS)


@every_client
@pytest.mark.parametrize("variable", [network.OWN_VARIABLE, *network.SHARED_VARIABLES])
def test_one_variable_is_enough_for_every_client(ask: Ask, variable: str, company, monkeypatch) -> None:
    address, authority = company
    monkeypatch.setenv(variable, str(authority))
    assert_reached(ask, address)


@every_client
def test_an_authority_that_nobody_named_is_told_with_the_variable_that_names_it(ask: Ask, company) -> None:
    with pytest.raises(UnreachableError) as caught:
        ask(company[0])
    said = str(caught.value)
    assert "the certificate of 127.0.0.1" in said
    assert "is not trusted; name the file of its authority in " in said
    assert "SSL_CERT_FILE" in said or "AWS_CA_BUNDLE" in said
    assert "\n" not in said


@every_client
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_holds_no_authority_is_refused_by_its_variable(ask: Ask, content, tmp_path, monkeypatch) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(BadInputError, match=r"SSL_CERT_FILE=.*ca\.crt cannot be read as certificates"):
        ask("https://127.0.0.1:9")


@every_client
@pytest.mark.parametrize("variable", [network.OWN_VARIABLE, *network.SHARED_VARIABLES, "SSL_CERT_DIR"])
def test_a_folder_of_authorities_does_as_well(ask: Ask, variable: str, company, tmp_path, monkeypatch) -> None:
    """As it is mounted from a ConfigMap of several keys, without the links of `openssl rehash`."""
    address, authority = company
    (tmp_path / "README").write_text("no certificate")
    (tmp_path / "company.pem").write_bytes(authority.read_bytes())
    monkeypatch.setenv(variable, str(tmp_path))
    assert_reached(ask, address)


def test_a_folder_for_s3_alone_reaches_s3(company, tmp_path, monkeypatch) -> None:
    address, authority = company
    (tmp_path / "company.pem").write_bytes(authority.read_bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    assert_reached(ask_store, address)
    with pytest.raises(UnreachableError, match="is not trusted"):
        ask_model_registry(address)


def test_a_folder_without_authorities_is_refused_by_its_variable(tmp_path, monkeypatch) -> None:
    (tmp_path / "README").write_text("no certificate")
    monkeypatch.setenv(network.OWN_VARIABLE, str(tmp_path))
    with pytest.raises(BadInputError, match=r"LORAPAR_CA_BUNDLE=.* is a folder without a PEM file of certificates"):
        network.trust_authorities()


@every_client
@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"address": "127.0.0.2"}, "is made out to another name"),
        ({"days": (-3, -1)}, "has expired"),
        ({"days": (1, 3)}, "is not yet valid"),
    ],
    ids=["another name", "expired", "not yet"],
)
def test_what_is_wrong_with_a_certificate_is_told(ask: Ask, made, said: str, tmp_path, monkeypatch) -> None:
    make_certificate(tmp_path, **made)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    with serving(tmp_path) as address, pytest.raises(UnreachableError, match=f"the certificate of 127.0.0.1:.* {said}"):
        ask(address)


@every_client
def test_an_address_of_ipv6_alone_is_asked(ask: Ask, tmp_path, monkeypatch) -> None:
    make_certificate(tmp_path, "::1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,::/64")
    with serving(tmp_path, "::1") as address:
        assert_reached(ask, address)


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


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        server.daemon_threads = True  # clients that keep their connection are not waited for
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@every_client
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_wants_a_password_is_named(ask: Ask, scheme: str, refusing_proxy: str, monkeypatch) -> None:
    variable = f"{scheme.upper()}_PROXY"
    monkeypatch.setenv(variable, f"http://someone:{SECRET}@{refusing_proxy}")
    with pytest.raises(UnreachableError) as caught:
        ask(f"{scheme}://server.invalid")
    said = str(caught.value)
    assert f"the proxy http://{refusing_proxy} asks for a user and password (407)" in said
    assert variable in said
    assert SECRET not in said


@every_client
def test_a_proxy_for_everything_is_asked_by_every_client(ask: Ask, refusing_proxy: str, monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://someone:{SECRET}@{refusing_proxy}")
    with pytest.raises(UnreachableError, match=f"the proxy http://{refusing_proxy} asks for a user and password"):
        ask("https://server.invalid")


@every_client
@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (f"http://someone:a/{SECRET}@127.0.0.1:9", "it is no address; write http://USER:PASSWORD@HOST:PORT"),
        (f"http://someone:a#{SECRET}@127.0.0.1:9", "it is no address"),
        (f"http://someone:{SECRET}@127.0.0.1:port", "it is no address"),
        (f"gopher://someone:{SECRET}@127.0.0.1:70", "it must begin with http://, https:// or socks5://"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_told_without_its_password(ask: Ask, proxy: str, said: str, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(BadInputError) as caught:
        ask("https://server.invalid")
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(network.proxy_for("https://server.invalid"))


@every_client
def test_a_proxy_that_speaks_socks_is_one_line(ask: Ask, monkeypatch) -> None:
    monkeypatch.setattr(network, "find_spec", lambda name: None)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises((UnreachableError, BadInputError), match="SOCKS"):
        ask("https://server.invalid")


def test_requests_to_this_machine_pass_every_proxy_by(company, monkeypatch) -> None:
    address, authority = company
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for ask in CLIENTS.values():
        assert_reached(ask, address)


@every_client
def test_a_proxy_that_does_not_answer_is_named_and_not_the_server(ask: Ask, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:{SECRET}@127.0.0.1:9")
    with pytest.raises(UnreachableError) as caught:
        ask("https://server.invalid")
    said = str(caught.value)
    assert "the proxy http://127.0.0.1:9 does not answer; mend HTTPS_PROXY, or put server.invalid into NO_PROXY" in said
    assert SECRET not in said


@every_client
@pytest.mark.parametrize(
    "form", ["{host}", "*", "*.0.0.1", "{host}:{port}", "127.0.0.0/8", "example.org, {host} ,other", "::1,127.0.0.0/30"]
)
def test_what_no_proxy_names_is_asked_directly(ask: Ask, form: str, company, monkeypatch) -> None:
    address, authority = company
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    parts = urlsplit(address)
    monkeypatch.setenv("NO_PROXY", form.format(host=parts.hostname, port=parts.port))
    assert_reached(ask, address)


def test_the_own_variable_adds_to_the_public_authorities_and_leaves_no_file(company, monkeypatch) -> None:
    monkeypatch.setenv(network.OWN_VARIABLE, str(company[1]))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(company[1]))  # as in a pod, where all of them name the mounted file
    whole = network.trust_authorities()
    assert whole is not None
    context = ssl.create_default_context(cafile=whole)
    assert len(context.get_ca_certs()) > 50
    assert company[1].read_text(encoding="utf-8").strip() in Path(whole).read_text(encoding="utf-8")
    assert network.trust_authorities() == whole
    assert {os.environ[name] for name in (*network.SHARED_VARIABLES, "AWS_CA_BUNDLE")} == {whole}


def test_processes_share_one_file_of_authorities_in_the_cache(company, cli, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(company[1]))
    for _ in range(2):
        cli("doctor", "--store", str(tmp_path / "store"))
    whole = network.trust_authorities()
    assert [str(path) for path in (tmp_path / "cache" / "authorities").iterdir()] == [whole]
    # What another process inherits is the combination already.
    network._made.clear()
    network._combined.cache_clear()
    assert network.trust_authorities() == whole


def test_without_a_cache_the_file_lasts_as_long_as_the_process(company, monkeypatch, tmp_path) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("SSL_CERT_FILE", str(company[1]))
    whole = network.trust_authorities()
    assert whole is not None
    assert Path(whole).name.startswith("lorapar-authorities-")


def test_a_bundle_that_is_meant_for_s3_alone_changes_nothing_for_others(company, monkeypatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(company[1]))
    assert network.trust_authorities() is None


def test_http_where_tls_was_expected_is_told(monkeypatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Anything) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(httpx2.TransportError) as caught:
            httpx2.get(address)
        server.shutdown()
    assert "does not speak TLS" in (network.network_cause(caught.value, address) or "")


def test_a_server_that_is_down_is_nobody_elses_fault() -> None:
    with pytest.raises(httpx2.TransportError) as caught:
        httpx2.get("https://127.0.0.1:9")
    assert network.network_cause(caught.value, "https://127.0.0.1:9") is None


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:9", "the proxy http://127.0.0.1:9 does not answer"),
        ("gopher://127.0.0.1:70", "cannot be used: it must begin with http://"),
    ],
)
def test_doctor_names_the_proxy_between_here_and_the_hub(monkeypatch, proxy: str, said: str) -> None:
    from huggingface_hub import close_session

    from lorapar import doctor

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    close_session()
    found = doctor._hub()
    close_session()
    assert said in found.found


@pytest.mark.parametrize(
    ("entries", "host", "direct"),
    [
        ("10.0.0.0/8,.svc", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.7/8", "10.1.2.3", True),
        ("fd00::/8", "[fd12::1]", True),
        ("*.internal", "llm.company.internal", True),
        ("*.internal", "llm.company.external", False),
        (".svc", "llm.team.svc", True),
        ("10.0.0.0/nonsense, ,", "10.1.2.3", False),
        ("llm.company:8443", "llm.company", False),
        ("llm.company:443", "llm.company", True),
        ("other.company llm.company", "llm.company", True),
        ("other.company; .company", "llm.company", True),
    ],
)
def test_networks_and_patterns_of_no_proxy_hold_for_who_stands_in_them(entries, host, direct, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", entries)
    assert (network.proxy_for(f"https://{host}/v1") is None) == direct
