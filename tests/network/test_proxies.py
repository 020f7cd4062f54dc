"""One proxy variable means the same to every client, and a proxy that is in the way is said alike by all."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest

from lorapar import network
from lorapar.errors import BadInputError, UnreachableError
from tests.network.clients import CLIENTS, Ask, assert_reached, every_client, who_is_let_through
from tests.network.servers import SECRET, asking_proxy


@every_client
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_wants_a_password_is_named(ask: Ask, scheme: str, refusing_proxy: str, monkeypatch) -> None:
    variable = f"{scheme.upper()}_PROXY"
    lines = {
        "": f"the proxy http://{refusing_proxy} asks for a user and password (407); give them in {variable}",
        f"someone:{SECRET}@": f"the proxy http://{refusing_proxy} refuses the user and password of {variable} (407)",
    }
    for login, line in lines.items():
        monkeypatch.setenv(variable, f"http://{login}{refusing_proxy}")
        with pytest.raises(UnreachableError) as caught:
            ask(f"{scheme}://server.invalid")
        assert line in str(caught.value)
        assert SECRET not in str(caught.value)


@every_client
def test_a_proxy_for_everything_is_asked_by_every_client(ask: Ask, refusing_proxy: str, monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://someone:{SECRET}@{refusing_proxy}")
    with pytest.raises(UnreachableError, match=f"the proxy http://{refusing_proxy} refuses the user and password"):
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


@who_is_let_through
def test_a_right_password_opens_the_way_whatever_it_is_made_of(ask: Ask, company, monkeypatch) -> None:
    """With user and password as %XX, as every program wants them."""
    address, authority = company
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(network, "_LOOPBACK", ())
    user, password = "dom\\ann", "p@ss:w/rd#1 50%25 a+b c&d=e?f"
    with asking_proxy(f"{user}:{password}", address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{quote(user, safe='')}:{quote(password, safe='')}@{proxy}")
        assert_reached(ask, address)


@every_client
def test_a_password_with_other_letters_is_sent_or_refused_in_one_line(ask: Ask, company, monkeypatch) -> None:
    """Programs and proxies agree on no encoding of them: most send UTF-8, requests Latin-1, boto3 none at all."""
    address, authority = company
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(network, "_LOOPBACK", ())
    with asking_proxy("me:größe", address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{quote('größe')}@{proxy}")
        if ask is CLIENTS["store"]:
            with pytest.raises(BadInputError, match="user or password have letters beyond ASCII"):
                ask(address)
        elif ask is CLIENTS["mlflow"]:
            with pytest.raises(UnreachableError, match=f"the proxy http://{proxy} refuses the user and password"):
                ask(address)
        else:
            assert_reached(ask, address)


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
    assert "the proxy http://127.0.0.1:9 does not answer; fix HTTPS_PROXY, or put server.invalid into NO_PROXY" in said
    assert SECRET not in said


@who_is_let_through
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
        ("[fd12::1]", "[fd12::1]", True),
        ("[fd12::1]:443", "[fd12::1]", True),
        ("[fd12::1]:8443", "[fd12::1]", False),
        ("fd12:0:0::1", "[fd12::1]", True),
        ("[nonsense", "[fd12::1]", False),
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
