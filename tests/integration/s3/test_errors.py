"""Each way of not getting at a bucket is one line that names it, its cause and the remedy, and ends with code 3."""

import time
from datetime import datetime, timedelta

import botocore.auth
import pytest

from lorapar.errors import BadInputError, ExitCode, UnreachableError
from lorapar.store import open_store
from tests.integration.conftest import use_identity
from tests.integration.fault_proxy import FaultProxy, answer

OPERATIONS = {
    "read": lambda store: store.read("a"),
    "exists": lambda store: store.exists("a"),
    "list": lambda store: list(store.list()),
    "write": lambda store: store.write("a", b"x"),
    "write_if_absent": lambda store: store.write_if_absent("a", b"x"),
    "known": lambda store: store.known(["a", "b"]),
}


def failure(address, operation="read"):
    """The one line that an operation ends with."""
    with pytest.raises(UnreachableError) as caught:
        OPERATIONS[operation](open_store(address))
    assert caught.value.exit_code == ExitCode.UNREACHABLE == 3
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nobody_listens(s3_server, s3_address, monkeypatch, operation):
    use_identity(monkeypatch, s3_server.environment(endpoint="http://127.0.0.1:9"))
    start = time.monotonic()
    line = failure(s3_address, operation)
    assert line.startswith(s3_address)
    assert "http://127.0.0.1:9 cannot be reached (Connection refused); check the network and AWS_ENDPOINT_URL" in line
    assert time.monotonic() - start < 5


def test_no_such_host(s3_server, s3_address, monkeypatch):
    use_identity(monkeypatch, s3_server.environment(endpoint="http://storage.invalid:8333"))
    assert "http://storage.invalid:8333 cannot be reached (" in failure(s3_address)


def test_endpoint_that_is_no_address(s3_server, s3_address, monkeypatch):
    use_identity(monkeypatch, s3_server.environment(endpoint="storage"))
    with pytest.raises(BadInputError, match="Invalid endpoint: storage; check AWS_ENDPOINT_URL"):
        open_store(s3_address)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_such_bucket(s3_server, s3_address, operation):
    line = failure("s3://no-such-bucket/prefix", operation)
    assert line.startswith("s3://no-such-bucket/prefix")
    assert f"there is no such bucket at {s3_server.endpoint}; create it or fix the address" in line


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unknown_key(s3_server, s3_address, monkeypatch, operation):
    use_identity(monkeypatch, s3_server.environment() | {"AWS_ACCESS_KEY_ID": "LORAPARNOBODY0000001"})
    line = failure(s3_address, operation)
    assert "wrong key: " in line
    assert "does not know the access key" in line
    assert "LORAPARNOBODY0000001" not in line


@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_secret(s3_server, s3_address, monkeypatch, operation):
    use_identity(monkeypatch, s3_server.environment() | {"AWS_SECRET_ACCESS_KEY": "planted-wrong-secret"})
    line = failure(s3_address, operation)
    assert "wrong key: the secret key in use does not fit" in line
    assert "planted" not in line


def test_no_credentials(s3_server, s3_address, monkeypatch, tmp_path):
    environment = {name: value for name, value in s3_server.environment().items() if "KEY" not in name}
    use_identity(monkeypatch, environment | {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")})
    assert "no credentials were found; set AWS_ACCESS_KEY_ID" in failure(s3_address)


def test_profile_that_is_not_there(s3_server, s3_address, monkeypatch):
    use_identity(monkeypatch, s3_server.environment() | {"AWS_PROFILE": "nobody"})
    assert "profile (nobody) could not be found" in failure(s3_address)


def test_profile_from_a_mounted_file_is_used_and_its_secret_redacted(s3_server, s3_address, monkeypatch, tmp_path):
    from lorapar.redaction import BLANK, redact

    environment = s3_server.environment()
    file = tmp_path / "credentials"
    file.write_text(
        f"[team]\naws_access_key_id={environment.pop('AWS_ACCESS_KEY_ID')}\n"
        f"aws_secret_access_key={environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    secret = environment.pop("AWS_SECRET_ACCESS_KEY")
    use_identity(monkeypatch, environment | {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "team"})
    open_store(s3_address).write("a", b"x")
    assert redact(f"it was {secret}") == f"it was {BLANK}"


@pytest.mark.parametrize("operation", ["write", "write_if_absent"])
def test_reader_may_not_write(s3_server, s3_address, monkeypatch, operation):
    use_identity(monkeypatch, s3_server.environment("reader"))
    line = failure(s3_address, operation)
    assert line.startswith(f"{s3_address}/a: access denied: ")
    assert "lack the right to PutObject" in line
    assert open_store(s3_address).exists("a") is False


@pytest.mark.parametrize("operation", OPERATIONS)
def test_stranger_may_do_nothing(s3_server, s3_address, monkeypatch, operation):
    use_identity(monkeypatch, s3_server.environment("stranger"))
    assert "access denied: " in failure(s3_address, operation)


@pytest.mark.parametrize(("minutes", "message"), [(-90, "behind"), (90, "ahead")])
def test_clock_that_is_wrong(s3_address, monkeypatch, minutes, message):
    real = botocore.auth.get_current_datetime

    def shifted(*arguments, **more):
        return real(*arguments, **more) + timedelta(minutes=minutes)

    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=minutes)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", shifted)
    monkeypatch.setattr("lorapar.store.s3_errors.datetime", Shifted)
    line = failure(s3_address, "list")
    assert "this machine's clock is wrong" in line
    assert f"minutes {message}" in line


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (answer("400 Bad Request", "ExpiredToken", "The provided token has expired."), "session token has expired"),
        (answer("400 Bad Request", "InvalidToken", "Malformed."), "session token is not accepted"),
        (answer("403 Forbidden", "RequestTimeTooSkewed", "Too far apart."), "this machine's clock is wrong"),
        (answer("501 Not Implemented", "NotImplemented", "A header."), "AWS_REQUEST_CHECKSUM_CALCULATION"),
        (answer("507 Full", "XMinioStorageFull", "Full."), "the object store is full"),
        (answer("418 Teapot", "Teapot", "short\nand stout"), "refused to PutObject: Teapot short and stout"),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_what_other_servers_answer(s3_server, s3_address, monkeypatch, fault, message):
    with FaultProxy(s3_server.port, lambda: fault) as proxy:
        use_identity(monkeypatch, s3_server.environment(endpoint=proxy.endpoint))
        line = failure(s3_address, "write")
    assert line.startswith(f"{s3_address}/a: ")
    assert message in line


def test_slow_down_that_does_not_end(s3_server, s3_address, monkeypatch):
    fault = answer("503 Slow Down", "SlowDown", "Reduce your request rate.")
    with FaultProxy(s3_server.port, lambda: fault) as proxy:
        environment = s3_server.environment(endpoint=proxy.endpoint)
        use_identity(monkeypatch, environment | {"AWS_MAX_ATTEMPTS": "3"})
        assert "asks to slow down (SlowDown), also after 3 attempts" in failure(s3_address, "write")
