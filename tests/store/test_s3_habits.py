"""S3 as companies run it: old servers, encryption, who pays, and least rights."""

import base64
import hashlib
import time
from typing import get_args

import pytest
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.cli.base import settings_of
from lorapar.config import DataConfig
from lorapar.config.store import Acl, Encryption
from lorapar.data import load_data
from lorapar.data.bucket import bucket_files
from lorapar.doctor import examine_store
from lorapar.errors import BadInputError, ExitCode, IntegrityError, UnreachableError
from lorapar.store import open_store, put_tree, s3_headers
from lorapar.store.base import DeniedError, ObjectInfo, Transfer
from tests.store.s3_in_memory import _Handler


def refuse_checksums(request):
    marks = ("x-amz-checksum-", "x-amz-trailer", "x-amz-sdk-checksum")
    if any(name.startswith(marks) for name in request.headers) and request.method in ("PUT", "POST"):
        return 400, "XAmzContentSHA256Mismatch", "does not match what was computed"
    return None


def test_server_that_knows_no_checksums_is_distinguished_from_a_file_that_changed(server, tree):
    server.refuse = refuse_checksums
    for attempt in (lambda store: store.write("a", b"x"), lambda store: put_tree(store, tree)):
        with pytest.raises(UnreachableError, match="AWS_REQUEST_CHECKSUM_CALCULATION=when_required") as caught:
            attempt(open_store("s3://runs/x"))
        assert caught.value.exit_code == ExitCode.UNREACHABLE
        assert "changed" not in str(caught.value)
        assert "does not match what was computed" in str(caught.value)


@pytest.mark.parametrize("size", [5, 2_000_000])
def test_file_that_changed_while_it_went_up_is_reported(server, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    server.refuse = lambda request: (400, "BadDigest", "not equal") if request.method == "PUT" else None
    with pytest.raises(
        IntegrityError, match=r"s3://runs/x/a: what was sent is not what was recorded: .*file changed meanwhile"
    ):
        open_store("s3://runs/x").upload_all([Transfer(path, "a", size, hashlib.sha256(b"bytes").hexdigest())])


@pytest.mark.parametrize("by", ["variable", "profile"])
def test_without_checksums_no_request_carries_one_and_md5_is_checked(server, tree, tmp_path, monkeypatch, by):
    if by == "variable":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    else:
        (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = when_required\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    server.refuse = refuse_checksums
    store = open_store("s3://runs/x")
    put_tree(store, tree)
    store.write("a", b"x")
    assert store.write_if_absent("b", b"x")
    path = tree / "one.bin"
    store.upload_in_parts(Transfer(path, "parts", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()))
    store.delete_all(["a", "b"])
    sent = [*server.of("PUT"), *server.of("PUT partNumber"), *server.of("POST delete")]
    assert len(sent) >= 6
    for request in sent:
        digest = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
        assert request.headers["content-md5"] == digest, request.operation


def test_settings_put_encryption_on_every_write(server, tree, monkeypatch):
    settings_of(
        "tiny",
        None,
        [
            "store.encryption=aws:kms",
            "store.kms_key_id=alias/team",
            "store.bucket_key=true",
            "store.address=s3://other/b",
        ],
        "s3://runs/x",
    )
    store = open_store("s3://runs/x")
    put_tree(store, tree)
    store.write("a", b"x")
    store.write_if_absent("b", b"x")
    path = tree / "one.bin"
    store.upload_in_parts(Transfer(path, "parts", path.stat().st_size))
    store.renew("a")
    sent = [*server.of("PUT"), *server.of("POST uploads"), *server.of("COPY")]
    assert {request.operation for request in sent} == {"PUT", "POST uploads", "COPY"}
    for request in sent:
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/team"
        assert request.headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"


CUSTOMER_KEY = base64.b64encode(bytes(range(32))).decode()


def needs_customer_key(request):
    """As S3: an object under a customer's key is neither read nor written nor copied without it."""
    wanted = ["x-amz-server-side-encryption-customer-key"]
    if request.operation == "COPY":
        wanted.append("x-amz-copy-source-server-side-encryption-customer-key")
    if request.key and request.method != "DELETE" and any(request.headers.get(one) != CUSTOMER_KEY for one in wanted):
        return 400, "InvalidRequest", "The object was stored using a form of Server Side Encryption"
    return None


def every_request(store, tree):
    """All that is ever asked of objects: whole, in parts, read, looked at, copied, removed."""
    put_tree(store, tree)
    store.write("a", b"x")
    assert store.write_if_absent("b", b"x")
    path = tree / "one.bin"
    store.upload_in_parts(Transfer(path, "parts", path.stat().st_size))
    assert store.exists("a")
    store.download("a", tree.parent / "back")
    store.download("parts", tree.parent / "parts")
    store.renew("a")
    store.delete_all(["a", "b"])


def test_key_of_a_customer_is_on_every_request_that_takes_one(server, tree, monkeypatch):
    monkeypatch.setenv(s3_headers.CUSTOMER_KEY, CUSTOMER_KEY)
    server.refuse = needs_customer_key
    every_request(open_store("s3://runs/x"), tree)
    named = {
        request.operation
        for request in server.requests
        if request.headers.get("x-amz-server-side-encryption-customer-algorithm") == "AES256"
    }
    assert named >= {"PUT", "GET", "HEAD", "POST uploads", "PUT partNumber", "POST uploadId", "COPY"}
    digest = base64.b64encode(hashlib.md5(bytes(range(32)), usedforsecurity=False).digest()).decode()
    assert {
        request.headers.get("x-amz-server-side-encryption-customer-key-md5", digest) for request in server.requests
    } == {digest}


def test_object_under_a_key_that_is_not_set_is_reported(server):
    server.objects["x/a"] = b"x"
    server.refuse = needs_customer_key
    with pytest.raises(UnreachableError, match=r"LORAPAR_S3_CUSTOMER_KEY") as caught:
        open_store("s3://runs/x").read("a")
    assert "The object was stored using a form" in str(caught.value)


def test_owner_class_and_tags_are_on_every_request_that_takes_them(server, tree):
    asked = ["store.expected_owner='123456789012'", "store.storage_class=STANDARD_IA", "store.tags={team: Ärzte & Co}"]
    settings_of("tiny", None, asked, "s3://runs/x")
    every_request(open_store("s3://runs/x"), tree)
    assert {request.headers["x-amz-expected-bucket-owner"] for request in server.requests} == {"123456789012"}
    assert [one.headers["x-amz-source-expected-bucket-owner"] for one in server.of("COPY")] == ["123456789012"]
    written = [*server.of("PUT"), *server.of("POST uploads"), *server.of("COPY")]
    for request in written:
        assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
        assert request.headers["x-amz-tagging"] == "team=%C3%84rzte%20%26%20Co"
    assert server.of("COPY")[0].headers["x-amz-tagging-directive"] == "REPLACE"


def test_store_option_leaves_the_other_settings(server):
    settings = settings_of("tiny", None, ["store.acl=bucket-owner-full-control"], "s3://runs/x")
    assert (settings.store.address, settings.store.acl) == ("s3://runs/x", "bucket-owner-full-control")


def test_variables_say_who_pays_and_whose_objects_are(server, monkeypatch):
    monkeypatch.setenv(s3_headers.REQUESTER_PAYS, "true")
    monkeypatch.setenv(s3_headers.ACL, "bucket-owner-full-control")
    store = open_store("s3://runs/x")
    store.write("a", b"x")
    store.read("a")
    list(store.list())
    store.delete("a")
    assert all(request.headers["x-amz-request-payer"] == "requester" for request in server.requests)
    assert [request.headers["x-amz-acl"] for request in server.of("PUT")] == ["bucket-owner-full-control"]


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        (s3_headers.ENCRYPTION, "kms", "LORAPAR_S3_ENCRYPTION=kms: not one of AES256, aws:kms"),
        (s3_headers.REQUESTER_PAYS, "maybe", "LORAPAR_S3_REQUESTER_PAYS=maybe: write true or false"),
        (s3_headers.KMS_KEY, "alias/x", "need LORAPAR_S3_ENCRYPTION=aws:kms"),
        (s3_headers.OWNER, "1234", "LORAPAR_S3_EXPECTED_OWNER=1234: not the 12 digits of an AWS account"),
        (s3_headers.STORAGE_CLASS, "GLACIER", "what is archived cannot be read at once; GLACIER_IR can"),
        (s3_headers.TAGS, "team nlp", "write KEY=VALUE&KEY=VALUE"),
        (s3_headers.TAGS, "team=a&team=b", "at most 10 tags, each key once"),
        (s3_headers.CUSTOMER_KEY, "short", "LORAPAR_S3_CUSTOMER_KEY: not 32 bytes in base64"),
    ],
)
def test_wrong_variables_are_named(server, monkeypatch, name, value, answer):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=answer):
        open_store("s3://runs/x")


def test_two_kinds_of_encryption_exclude_each_other(server, monkeypatch):
    monkeypatch.setenv(s3_headers.CUSTOMER_KEY, CUSTOMER_KEY)
    monkeypatch.setenv(s3_headers.ENCRYPTION, "AES256")
    with pytest.raises(BadInputError, match="exclude each other") as caught:
        open_store("s3://runs/x")
    assert CUSTOMER_KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("denied explicitly in a resource-based policy", "set store.encryption or LORAPAR_S3_ENCRYPTION"),
        ("Access Denied: this bucket is paid for by its requester", "LORAPAR_S3_REQUESTER_PAYS=true"),
        ("Access Denied", r"lack the right to PutObject \(s3:PutObject\)"),
    ],
)
def test_refusal_quotes_the_server_and_hints_at_the_header(server, message, answer):
    server.refuse = lambda request: (403, "AccessDenied", message) if request.method == "PUT" else None
    with pytest.raises(DeniedError, match=answer) as caught:
        open_store("s3://runs/x").write("a", b"x")
    assert f"(the server says: {message})" in str(caught.value)


def refuse_methods(*methods):
    return lambda request: (403, "AccessDenied", "Access Denied") if request.method in methods else None


def test_doctor_takes_an_address_that_can_only_be_read(server, monkeypatch):
    server.objects["x/a"] = b"x"
    server.refuse = refuse_methods("PUT", "POST", "DELETE")
    (found,) = examine_store("s3://runs/x")
    assert "1 objects, can be read, not written with these credentials" in found.found
    assert "s3:PutObject" in found.advice
    assert not found.missing
    assert [one.missing for one in examine_store("s3://runs/x", to_write=True)] == [True]
    monkeypatch.setattr("lorapar.doctor.examine", list)
    for options, code in ([], 0), (["--to-write"], 3):
        assert CliRunner().invoke(app, ["doctor", "--store", "s3://runs/x", *options]).exit_code == code


def test_doctor_uploads_as_runs_do(server):
    findings = examine_store("s3://runs/x")
    assert not any(finding.missing or finding.advice for finding in findings)
    assert any("x-amz-checksum-sha256" in request.headers for request in server.of("PUT"))
    assert server.of("PUT partNumber")
    assert server.objects == {}, "it leaves nothing behind"


def test_doctor_names_what_else_is_missing(server):
    server.refuse = lambda request: (
        (403, "AccessDenied", "Access Denied") if {"delete", "uploads"} & request.query.keys() else None
    )
    notes = {finding.what: finding.advice for finding in examine_store("s3://runs/x")}
    assert "CreateMultipartUpload" in notes["files of 32 MB"]
    assert "s3:DeleteObject" in notes["deleting"]


def test_a_right_that_is_missing_for_one_of_many_is_reported_as_for_that_one(server):
    refused = (
        b"<DeleteResult><Error><Key>x/b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    )
    server.done_as = lambda request: refused if request.operation == "POST delete" else None
    with pytest.raises(
        DeniedError, match=r"^s3://runs/x/b: .* lack the right to DeleteObject .*\(the server says: no\)"
    ):
        open_store("s3://runs/x").delete_all(["a", "b"])
    notes = {finding.what: finding.advice for finding in examine_store("s3://runs/x")}
    assert "s3:DeleteObject" in notes["deleting"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "MissingContentMD5", "Missing required header for this request: Content-MD5"),
        (400, "InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"),
        (405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
        (501, "NotImplemented", "not implemented"),
    ],
)
def test_objects_are_deleted_one_by_one_where_a_server_does_not_take_many(server, status, code, message):
    server.objects |= {"x/a": b"a", "x/b": b"b", "x/c": b"c"}
    server.refuse = lambda request: (status, code, message) if request.operation == "POST delete" else None
    open_store("s3://runs/x").delete_all(["a", "b"])
    assert server.objects == {"x/c": b"c"}
    assert not any("delet" in finding.what for finding in examine_store("s3://runs/x"))


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied")])
def test_old_content_that_a_server_does_not_copy_is_sent_again(server, tree, status, code):
    store = open_store("s3://runs/x")
    files = put_tree(store, tree).files  # all of it is old to this server, which knows one date
    sent = len(server.of("PUT"))
    put_tree(store, tree)
    assert len(server.of("COPY")) == len({one.sha256 for one in files.values()})
    assert len(server.of("PUT")) == sent
    server.refuse = lambda request: (status, code, "no") if request.operation == "COPY" else None
    put_tree(store, tree)
    assert len(server.of("PUT")) == 2 * sent


PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>please<br></body></html>"


def answers_with(monkeypatch, change):
    """Let the server send other answers: `change` takes status, body and headers, and returns them."""
    plain = _Handler.answer

    def answer(self, status, body=b"", **headers):
        status, body, headers = change(status, body, headers)
        plain(self, status, body, **headers)

    monkeypatch.setattr(_Handler, "answer", answer)


@pytest.mark.parametrize("status", [200, 401, 403, 404])
def test_page_of_a_proxy_is_no_object_and_no_missing_one(server, monkeypatch, status):
    server.objects["x/a"] = b"x"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    answers_with(monkeypatch, lambda *_: (status, PAGE, {"Content_Type": "text/html"}))
    for ask in (lambda store: list(store.list()), lambda store: store.write("a", b"y")):
        with pytest.raises(UnreachableError, match="a sign-in page or another service may stand at"):
            ask(open_store("s3://runs/x"))
    if status == 200:
        with pytest.raises(UnreachableError, match=r"answers without an ETag \(text/html\)"):
            open_store("s3://runs/x").read("a")


def test_answer_without_last_modified_counts_as_new(server, monkeypatch):
    server.objects["x/a"] = b"hello"
    without = ("Last_Modified", "last-modified")
    answers_with(
        monkeypatch,
        lambda status, body, headers: (status, body, {k: v for k, v in headers.items() if k not in without}),
    )
    (info,) = open_store("s3://runs/x").known(["a"]).values()
    assert (info.size_bytes, time.time() - info.modified < 100) == (5, True)


def test_server_that_sends_elsewhere_is_reported(server):
    server.refuse = lambda request: (301, "PermanentRedirect", "use another address")
    with pytest.raises(UnreachableError, match=r"sends requests elsewhere.*set AWS_ENDPOINT_URL to the address"):
        open_store("s3://runs/x").read("a")


def test_address_that_leads_to_https_is_reported_with_it(server, monkeypatch):
    answers_with(monkeypatch, lambda *_: (308, b"", {"Location": "https://s3.example/"}))
    with pytest.raises(UnreachableError, match=r"sends requests elsewhere to https://s3\.example/"):
        open_store("s3://runs/x").read("a")


@pytest.mark.parametrize(
    ("message", "answer", "unsaid"),
    [
        (
            "not authorized to perform: kms:GenerateDataKey because no identity-based policy allows it",
            r"lack the right to PutObject \(kms:GenerateDataKey\)",
            "store.encryption",
        ),
        ("not authorized to perform: s3:PutObjectTagging", r"\(s3:PutObjectTagging\)", "store.encryption"),
        ("Access Denied because object protected by object lock.", "locked until its retention ends", "lack the right"),
    ],
)
def test_right_that_the_server_names_is_the_one_reported(server, message, answer, unsaid):
    server.refuse = lambda request: (403, "AccessDenied", message) if request.method == "PUT" else None
    with pytest.raises(DeniedError, match=answer) as caught:
        open_store("s3://runs/x").write("a", b"x")
    assert unsaid not in str(caught.value)


def test_listing_that_ends_too_early_is_no_listing(server, monkeypatch):
    server.objects["x/a"] = b"x"
    cut = (b"<IsTruncated>false", b"<IsTruncated>true")
    answers_with(
        monkeypatch,
        lambda status, body, headers: (status, body.replace(*cut), headers | {"Content_Length": str(len(body) - 1)}),
    )
    with pytest.raises(UnreachableError, match="lists a part of the objects and does not say how to go on"):
        list(open_store("s3://runs/x").list())


@pytest.mark.parametrize("name", ["my rows (1).jsonl", "zeilen-ü.jsonl", "a%20b+c.jsonl", "行.jsonl"])
def test_files_are_read_by_whatever_name_people_gave_them(server, tmp_path, monkeypatch, name):
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path))
    server.objects |= {
        f"team data/{name}": b"{}",
        "team data/": b"",
        "team data/_SUCCESS": b"",
        "team data 2/x.jsonl": b"",
    }
    for address in (f"s3://runs/team data/{name}", "s3://runs/team data", "s3://runs/team data/"):
        (found,), _ = bucket_files(address)
        assert (found[0], found[1].read_bytes()) == (f"s3://runs/team data/{name}", b"{}")


def test_a_prefix_says_which_of_its_files_are_rows(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path))
    row = b'{"question": "%d?", "answer": "a"}\n'
    server.objects |= {"d/1.jsonl": row % 1, "d/test/2.jsonl": row % 2, "d/3.xlsx": b"x", "d/4.zip": b"x", "d/_OK": b""}
    notes = load_data(DataConfig(source="s3://runs/d/", heldout=1), seed=0).notes
    assert "s3://runs/d/ holds 2 files, and all are read as one: 1.jsonl, test/2.jsonl" in notes
    assert "s3://runs/d/ holds packed files, which are not read: 4.zip" in notes
    assert "s3://runs/d/ holds files of other kinds, which are not read: 3.xlsx" in notes
    assert len(server.of("GET list-type")) == 1, "a prefix of a million objects is a thousand requests"
    alone = load_data(DataConfig(source="s3://runs/d/1.jsonl", heldout=0), seed=0).notes
    assert not [note for note in alone if "holds" in note]


@pytest.mark.parametrize(
    "key", ["../a.jsonl", "a/../../b.jsonl", "/etc/a.jsonl", "a\\..\\b.jsonl", "a\n.jsonl", "\u202ea.jsonl"]
)
def test_key_that_would_lead_elsewhere_is_refused(server, tmp_path, monkeypatch, key):
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "a" / "b"))
    monkeypatch.setattr("lorapar.store.s3.S3Store.list", lambda self, prefix="": iter([ObjectInfo(key, 1, 0.0, '"v"')]))
    with pytest.raises(BadInputError, match="cannot be the key of an object"):
        bucket_files("s3://runs/data")
    assert not list(tmp_path.rglob("*.jsonl"))


def test_doctor_needs_a_list(server):
    server.refuse = lambda request: (403, "AccessDenied", "Access Denied") if not request.key else None
    (found,) = examine_store("s3://runs/x")
    assert (found.missing, found.exit_code) == (True, ExitCode.UNREACHABLE)
    assert "s3:ListBucket" in found.advice


def test_settings_and_variables_take_the_same_values() -> None:
    """Settings spell them out, as importing the store takes time that a mistake in a setting need not wait for."""
    assert get_args(Encryption) == s3_headers.ENCRYPTIONS
    assert get_args(Acl) == s3_headers.ACLS
