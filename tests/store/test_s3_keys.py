"""S3 keys: renewed under a run, from a program or a token file, with a region, and refused where they are nonsense."""

import pytest

from lorapar.errors import BadInputError, ExitCode, UnreachableError
from lorapar.store import open_store, put_tree
from lorapar.store.base import DeniedError

FIRST, SECOND = "FIRSTKEY00000001", "SECONDKEY0000002"
EXPIRED = (
    *("ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "RequestExpired", "SignatureDoesNotMatch"),
    *("SecurityTokenExpired", "AccessDenied"),
)


@pytest.fixture
def keys(server, tmp_path, monkeypatch):
    """Write keys into a mounted file, which the environment names instead of holding them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "keys.ini"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(key):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-the-tests-1\n")

    write(FIRST)
    return write


def refuse_key(code):
    words = "The security token has expired" if code == "AccessDenied" else "no longer"
    return lambda request: (400, code, words) if FIRST in request.headers.get("authorization", "") else None


@pytest.mark.parametrize("code", EXPIRED)
def test_keys_that_were_renewed_in_their_file_are_found(server, keys, tree, code):
    store = open_store("s3://runs/x")
    store.write("before", b"x")
    keys(SECOND)
    server.refuse = refuse_key(code)
    store.write("after", b"x")
    assert list(store.list())
    assert put_tree(store, tree).files, "uploads go through the transfer manager"
    refused = [one for one in server.requests if FIRST in one.headers["authorization"]]
    assert len(refused) == 2, "one before, and one that was made again; nothing later came with the old key"


def test_a_right_that_is_lacking_is_not_asked_for_again(server, keys):
    store = open_store("s3://runs/x")
    keys(SECOND)
    server.refuse = lambda request: (403, "AccessDenied", "Access Denied")
    with pytest.raises(DeniedError):
        store.write("after", b"x")
    assert len(server.of("PUT")) == 1


def test_keys_that_are_the_same_end_with_the_servers_words(server, keys):
    store = open_store("s3://runs/x")
    store.write("before", b"x")
    server.refuse = refuse_key("ExpiredToken")
    with pytest.raises(UnreachableError, match=r"session token has expired.*\(the server says: no longer\)") as caught:
        store.write("after", b"x")
    assert caught.value.exit_code == ExitCode.UNREACHABLE
    assert len(server.of("PUT")) == 2, "nothing is tried again with the keys that were refused"


def test_new_keys_that_are_refused_too_are_not_asked_for_ever(server, keys):
    store = open_store("s3://runs/x")
    keys(SECOND)
    server.refuse = lambda request: (400, "ExpiredToken", "no longer")
    with pytest.raises(UnreachableError, match="expired"):
        store.write("after", b"x")
    assert len(server.of("PUT")) <= 3


def test_keys_of_a_process_are_asked_for_again(server, keys, tmp_path, monkeypatch):
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'said.json'}\n")
    (tmp_path / "keys.ini").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    def say(key):
        (tmp_path / "said.json").write_text(f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "secret-1"}}')

    say(FIRST)
    store = open_store("s3://runs/x")
    store.write("before", b"x")
    say(SECOND)
    server.refuse = refuse_key("ExpiredToken")
    assert store.read("before") == b"x"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("false", "it said nothing"),
        ("sh -c 'echo sign in first >&2; exit 3'", "sign in first"),
        ("echo hello", "is not the JSON that is asked for"),
        ("echo [1]", "is not the JSON that is asked for"),
        ("/nowhere/keys", "/nowhere/keys: No such file or directory"),
    ],
)
def test_process_without_keys_is_reported_with_its_words(server, keys, tmp_path, monkeypatch, command, answer):
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    (tmp_path / "keys.ini").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(UnreachableError) as caught:
        open_store("s3://runs/x")
    assert answer in str(caught.value)
    assert "the credential_process of the AWS profile failed" in str(caught.value)


@pytest.mark.parametrize(
    ("default", "other", "region"),
    [
        ("eu-west-7", "", "eu-west-7"),
        ("", "eu-west-7", "eu-west-7"),
        ("eu-west-7", "eu-north-9", "eu-west-7"),
        ("", "", "us-east-1"),
    ],
)
def test_region_of_either_variable_signs_and_an_empty_one_is_none(server, monkeypatch, default, other, region):
    monkeypatch.setenv("AWS_DEFAULT_REGION", default)
    monkeypatch.setenv("AWS_REGION", other)
    open_store("s3://runs/x").write("a", b"x")
    signed = server.of("PUT")[-1].headers["authorization"]
    assert f"/{region}/s3/aws4_request" in signed


def test_wrong_region_is_reported_with_its_variable(server, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu central")
    with pytest.raises(BadInputError, match=r"'eu central' is not the name of a region; fix AWS_REGION"):
        open_store("s3://runs/x")
    monkeypatch.delenv("AWS_REGION")
    (tmp_path / "config").write_text("[default]\nregion = eu_central\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(BadInputError, match=r"'eu_central' is not the name of a region; fix region of the profile"):
        open_store("s3://runs/x")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_key_with_a_line_break_is_reported_before_it_is_used(server, monkeypatch, name):
    monkeypatch.setenv(name, "a-key-that-echo-wrote\n")
    with pytest.raises(BadInputError, match=f"^{name} begins or ends with a blank or line break") as caught:
        open_store("s3://runs/x")
    assert "a-key-that" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("AWS_MAX_ATTEMPTS", "many", "fix AWS_MAX_ATTEMPTS"),
        ("AWS_RETRY_MODE", "often", "fix AWS_RETRY_MODE"),
        ("AWS_ENDPOINT_URL", "s3.example:9000", "check AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://::1:9000", "check AWS_ENDPOINT_URL"),
    ],
)
def test_variables_of_boto3_that_hold_nonsense_are_named(server, monkeypatch, name, value, answer):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=answer):
        open_store("s3://runs/x")


def test_token_file_that_is_not_there_is_no_failed_program(server, keys, monkeypatch):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/keys.ini")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/tuner")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    with pytest.raises(UnreachableError, match="/nowhere/token: No such file") as caught:
        open_store("s3://runs/x").read("a")
    assert "credential_process" not in str(caught.value)


def test_silent_service_of_credentials_is_named_not_the_bucket(server, keys, tmp_path, monkeypatch):
    lines = "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = base\n[profile base]\n"
    (tmp_path / "config").write_text(f"{lines}aws_access_key_id = {FIRST}\naws_secret_access_key = s\n")
    (tmp_path / "keys.ini").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        open_store("s3://runs/x").read("a")


def test_key_in_the_servers_words_is_not_reported(server):
    server.refuse = lambda request: (403, "AccessDenied", f"User {FIRST} may not")
    with pytest.raises(DeniedError, match=r"User \[redacted\] may not"):
        open_store("s3://runs/x").write("a", b"x")
