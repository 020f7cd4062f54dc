"""No credential reaches a person's eyes: not by name, not by shape, not in a log line or a traceback."""

import io
import logging
import subprocess
import sys

import pytest

from lorapar import redaction
from lorapar.redaction import BLANK, redact, remember_secret


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD"]
)
def test_values_of_secret_variables_are_blanked(monkeypatch, name):
    monkeypatch.setenv(name, "planted/secret+value==")
    assert redact("it said planted/secret+value== and went away") == f"it said {BLANK} and went away"


def test_ordinary_variables_and_short_values_stay(monkeypatch):
    monkeypatch.setenv("GREETING", "hello-world")
    monkeypatch.setenv("A_TOKEN", "abc")
    assert redact("hello-world abc") == "hello-world abc"


def test_what_a_library_found_elsewhere_can_be_reported(monkeypatch):
    monkeypatch.setattr(redaction, "_remembered", set())
    remember_secret("from-a-mounted-file", None, "short")
    assert redact("short: from-a-mounted-file") == f"short: {BLANK}"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET http://h/b/k?X-Amz-Credential=AKID%2F2026&X-Amz-Signature=0123abcd&x=1", "0123abcd"),
        ("GET http://h/b/k?X-Amz-Security-Token=FQoGZXIvYXdzE", "FQoGZXIvYXdzE"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=x/y, Signature=0123abcd", "0123abcd"),
        ("headers {'Authorization': 'Bearer abcdefghijkl'}", "abcdefghijkl"),
        ("{'x-amz-security-token': 'FQoGZXIvYXdzE'}", "FQoGZXIvYXdzE"),
        ("http://user:pass-word@proxy:3128/", "pass-word"),
        ("the key AKIAIOSFODNN7EXAMPLE is unknown", "AKIAIOSFODNN7EXAMPLE"),
        ("token hf_abcdefghijklmnopqrstuv refused", "hf_abcdefghijklmnopqrstuv"),
    ],
)
def test_shapes_of_credentials_are_blanked_though_unknown(text, secret):
    assert secret in text
    assert secret not in redact(text)
    assert BLANK in redact(text)


def test_plain_lines_stay_as_they_are():
    line = "s3://bucket/cas/0123: access denied; see docs/storage.md, http://127.0.0.1:8333/x?prefix=a&max-keys=3"
    assert redact(line) == line


def test_log_lines_and_their_tracebacks(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-hub-token")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    try:
        redaction.install_redaction()
        try:
            raise ValueError("planted-hub-token refused")
        except ValueError:
            logger.exception("asked with %s", "planted-hub-token")
    finally:
        logging.setLogRecordFactory(before)
    assert "planted-hub-token" not in stream.getvalue()
    assert f"ValueError: {BLANK} refused" in stream.getvalue()
    assert f"asked with {BLANK}" in stream.getvalue()


def test_traceback_of_a_bug_keeps_its_frames_and_loses_the_secret(monkeypatch):
    code = """
from lorapar.cli import app, main
@app.command("boom")
def boom():
    raise RuntimeError("planted-secret-1")
main()
"""
    monkeypatch.setenv("SOME_TOKEN", "planted-secret-1")
    done = subprocess.run([sys.executable, "-c", code, "boom"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"RuntimeError: {BLANK}" in done.stderr
    assert "in boom" in done.stderr
    assert "planted-secret-1" not in done.stderr + done.stdout
