"""One authority's file reaches every client, and what is wrong with a certificate is said alike by all."""

from __future__ import annotations

import os
import ssl
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from lorapar import network
from lorapar.errors import BadInputError, UnreachableError
from tests.network.clients import Ask, ask_model_registry, ask_store, assert_reached, every_client, who_is_let_through
from tests.network.servers import Anything, make_certificate, serving


@who_is_let_through
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


@who_is_let_through
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
        ({"address": "127.0.0.2"}, "is issued for another name"),
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


@who_is_let_through
def test_an_address_of_ipv6_alone_is_asked(ask: Ask, tmp_path, monkeypatch) -> None:
    make_certificate(tmp_path, "::1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,::/64")
    with serving(tmp_path, "::1") as address:
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
