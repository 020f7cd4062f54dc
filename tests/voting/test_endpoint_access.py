"""How requests get to an endpoint: headers, the query, the address, redirects and keys in files."""

from __future__ import annotations

import pytest

from tests.voting.api_server import MODEL, serving
from tests.voting.asking import ROWS, ask, asked_at, refusal, rows_of


def test_headers_and_the_query_go_with_every_request(monkeypatch) -> None:
    seen = []

    def habit(api, path, headers, body):
        seen.append((path, dict(headers)))
        return None

    with serving(habit=habit) as api:
        votes = ask(
            api,
            endpoint=f"{api.address}/?api-version=2025-01-01&x=a%20b",
            headers={"X-Tenant": "team", "X-Version": 3},
            headers_env={"api-key": "GATEWAY_KEY"},
            query_env={"sig": "GATEWAY_SIGNATURE"},
            environment={"GATEWAY_KEY": "secret-of-mine", "GATEWAY_SIGNATURE": "a&b=c"},
        )
    assert len(votes) == len(ROWS)
    for path, headers in ((path, headers) for path, headers in seen if "completions" in path):
        assert path == "/v1/chat/completions?api-version=2025-01-01&x=a%20b&sig=a%26b%3Dc"
        found = {name.lower(): value for name, value in headers.items()}
        assert (found["x-tenant"], found["x-version"], found["api-key"]) == ("team", "3", "secret-of-mine")
        assert "authorization" not in found


def test_a_header_without_its_variable_is_one_line_and_a_value_is_shown_nowhere() -> None:
    from lorapar.redaction import redact

    def habit(api, path, headers, body):
        return 403, {"error": {"message": f"no tenant {headers['X-Tenant-Key']}"}}, {}

    with serving(habit=habit) as api:
        options = {"headers_env": {"X-Tenant-Key": "TENANT_KEY"}}
        missing = refusal(api, **options)
        wrong = refusal(api, environment={"TENANT_KEY": "tenant-secret-9"}, **options)
        broken = refusal(api, environment={"TENANT_KEY": "two\nlines"}, **options)
    assert "the environment variable TENANT_KEY, which holds the header X-Tenant-Key" in missing
    assert "openai.headers_env" in missing
    assert "HTTP 403 no tenant" in wrong
    assert "may not do this" in wrong
    assert "tenant-secret-9" not in redact(wrong)
    assert "TENANT_KEY must hold one line" in broken


@pytest.mark.parametrize(
    "ending", ["/v1/", "/v1/chat/completions", "/v1/chat/completions/?a=b", "/v1/completions", "/v1/models"]
)
def test_the_address_may_end_as_people_copy_it(ending) -> None:
    with serving() as api:
        assert len(ask(api, endpoint=api.address.removesuffix("/v1") + ending)) == len(ROWS)
    assert {path.partition("?")[0] for path in asked_at(api)} == {"/v1/chat/completions"}


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_an_address_without_a_version_is_asked_below_one(prefix) -> None:
    lines = []
    with serving(prefix=prefix) as api:
        address = api.address.removesuffix("/v1") + prefix.removesuffix("/v1")
        assert len(ask(api, lines, endpoint=address)) == len(ROWS)
    assert lines == [f"teacher 't': {address} has no chat/completions; asking at {address}/v1"]
    assert sum("/v1" not in path for path in asked_at(api)) == 1


def test_an_address_without_an_api_is_named_as_it_was_given() -> None:
    with serving(prefix="/deployments/judge") as api:
        address = api.address.removesuffix("/v1") + "/deployments/other"
        message = refusal(api, endpoint=f"{address}?api-version=1")
    assert f"{address}/chat/completions: HTTP 404" in message
    assert f"no model '{MODEL}' there, or no API: most addresses end in /v1" in message


def test_a_redirect_within_a_host_is_followed_once_and_to_another_is_not() -> None:
    def moved(api, path, headers, body):
        if path.startswith("/v1"):
            return 307, "", {"Location": f"/new{path}"}
        return 200, {"choices": [{"message": {"content": api.reply(body)}}]}, {}

    with serving(habit=moved) as api:
        assert len(ask(api, endpoint=f"{api.address}?a=b")) == len(ROWS)
        assert api.paths.count("/v1/chat/completions?a=b") == 1
        assert "/new/v1/chat/completions?a=b" in api.paths
    elsewhere = {"Location": "http://elsewhere.invalid/v1/chat/completions"}
    with serving(habit=lambda *_: (308, "", elsewhere)) as api:
        assert "it redirects to http://elsewhere.invalid/v1/chat/completions, another host" in refusal(api)
    with serving(habit=lambda *_: (301, "", {"Location": "/v1/chat/completions"})) as api:
        assert "redirects too often" in refusal(api)


def test_a_key_in_a_file_is_read_again_once_it_is_refused(tmp_path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-1\n", encoding="utf-8")
    with serving(key="first-key-1") as api:

        def renewed(api, path, headers, body):
            if len(rows_of(api)) == 3:
                file.write_text("second-key-2", encoding="utf-8")
                api.key = "second-key-2"
            return None

        api.habit = renewed
        assert len(ask(api, api_key_file=str(file))) == len(ROWS)
        file.write_text("third-key-3", encoding="utf-8")
        assert "HTTP 401" in refusal(api, api_key_file=str(file))
    file.write_text("Bearer third-key-3\n", encoding="utf-8")
    with serving(key="third-key-3") as api:
        assert len(ask(api, api_key_file=str(file))) == len(ROWS)
    file.unlink()
    with serving() as api:
        assert f"openai.api_key_file: {file} cannot be read (No such file" in refusal(api, api_key_file=str(file))
