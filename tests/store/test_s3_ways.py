"""Ways to a bucket that people have: without keys, below a path, by IPv6, and servers that know less than AWS."""

import json
import socket

import pytest

from lorapar.doctor import examine_store
from lorapar.errors import BadInputError, UnreachableError
from lorapar.store import open_store
from lorapar.store.base import DeniedError
from tests.store.s3_in_memory import S3InMemory


@pytest.fixture
def without_keys(server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return server


def test_a_public_bucket_is_read_without_credentials(without_keys):
    without_keys.objects["x/rows.jsonl"] = b"{}"
    without_keys.refuse = lambda request: None if request.method == "GET" else (403, "AccessDenied", "Access Denied")
    store = open_store("s3://runs/x")
    assert [info.key for info in store.list()] == ["rows.jsonl"]
    assert store.read("rows.jsonl") == b"{}"
    assert all("authorization" not in request.headers for request in without_keys.requests)
    (found,) = examine_store("s3://runs/x")
    assert not found.missing
    assert "can be read, not written" in found.found
    assert "no credentials were found; set AWS_ACCESS_KEY_ID" in found.advice


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (400, "MissingSecurityHeader"), (401, "InvalidAccessKeyId")]
)
def test_a_bucket_that_asks_for_credentials_says_that_there_are_none(without_keys, status, code):
    without_keys.refuse = lambda request: (status, code, "who are you")
    with pytest.raises(DeniedError, match=r"no credentials were found; set AWS_ACC.*\(the server says: who are you\)"):
        open_store("s3://runs/x").read("a")


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            "AccessDenied",
            "The security token has expired",
            "the session token has expired; .* security token has expired",
        ),
        ("AccessDenied", "Session token is expired", "the session token has expired"),
        ("AccessDenied", "Request has expired", r"clock is wrong; .*\(the server says: Request has expired\)"),
        ("RequestTimeTooSkewed", "The difference is 20 min", r"clock is wrong; .*\(the server says: The difference"),
        ("NoSuchBucket", "It was deleted", r"no such bucket at .*\(the server says: It was deleted\)"),
    ],
)
def test_the_cause_is_told_by_the_words_of_the_server_and_with_them(server, code, message, said):
    server.refuse = lambda request: (403, code, message)
    with pytest.raises(UnreachableError, match=said):
        open_store("s3://runs/x").read("a")


def test_a_server_without_bulk_deletion_or_a_list_of_uploads_is_collected_all_the_same(server):
    """As gateways before other stores are."""
    unknown = ("POST delete", "GET uploads")
    server.refuse = lambda request: (501, "NotImplemented", "no") if request.operation in unknown else None
    store = open_store("s3://runs/x")
    for key in ("a", "b", "c"):
        store.write(key, b"x")
    store.delete_all(["a", "b"])
    assert list(server.objects) == ["x/c"]
    assert store.unfinished(1e12) == 0
    store.abort_unfinished(1e12)


def test_what_bulk_deletion_leaves_is_told_without_a_key_of_it(server):
    server.done_as = lambda request: (
        b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"
        if request.operation == "POST delete"
        else None
    )
    with pytest.raises(UnreachableError, match=r"^s3://runs/x/: access denied: .* the right to DeleteObject"):
        open_store("s3://runs/x").delete_all(["a"])


@pytest.mark.parametrize("code", ["NoSuchKey", "404"])
def test_what_is_gone_already_is_deleted(server, code):
    """S3 says nothing of it; some servers name it among the errors, or answer a single deletion with 404."""
    answer = f"<DeleteResult><Error><Key>x/a</Key><Code>{code}</Code></Error></DeleteResult>".encode()
    server.done_as = lambda request: answer if request.operation == "POST delete" else None
    server.refuse = lambda request: (404, "NoSuchKey", "gone") if request.method == "DELETE" else None
    store = open_store("s3://runs/x")
    store.delete_all(["a"])
    store.delete("a")
    answer = answer.replace(f"<Code>{code}".encode(), b"<Code>NoSuchBucket")
    with pytest.raises(UnreachableError, match="no such bucket"):
        store.delete_all(["a"])


@pytest.mark.parametrize("address", ["s3://runs//x", "s3://runs//", "s3://runs/a//b"])
def test_a_slash_more_is_another_key_and_not_taken_for_none(address):
    """`s3://runs//x` is the object `/x` to every other program."""
    if address == "s3://runs//":
        assert str(open_store(address).address) == "s3://runs"
        return
    with pytest.raises(BadInputError, match="use names between single slashes"):
        open_store(address)


def test_an_endpoint_below_a_path_is_asked_there(server, monkeypatch):
    """A gateway that serves several stores."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server.endpoint}/company/")
    store = open_store("s3://runs/x")
    store.write("a", b"x")
    assert store.read("a") == b"x"
    assert {request.key for request in server.requests if request.key} == {"runs/x/a"}


def test_an_endpoint_by_its_ipv6_address(server, monkeypatch):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with S3InMemory(host="::1") as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.endpoint)
        store = open_store("s3://runs/x")
        store.write("a", b"x")
        assert [info.key for info in store.list()] == ["a"]
        (found, *_) = examine_store("s3://runs/x")
    assert json.dumps(found.found).count("[::1]") == 1
