"""Credentials stay where they are: a whole run in a bucket, with failures on the way, leaves none anywhere."""

import os
import subprocess
import sys

from tests.integration.conftest import use_identity
from tests.integration.planted import HUB_TOKEN, found_in_bucket, found_in_folder, found_in_text
from tests.integration.s3_server import KEYS

WRONG_SECRET, WRONG_TOKEN = "planted-wrong-secret-0123456789", "planted-session-token-0123456789"
SECRETS = (*KEYS["writer"], WRONG_SECRET, WRONG_TOKEN, HUB_TOKEN)


def lorapar(*arguments, **environment):
    """(exit code, everything said) of a command, with boto3's own log at its most talkative."""
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG); from lorapar.cli import main; main()"
        if environment.pop("talkative", False)
        else "from lorapar.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


def test_whole_run_with_failures(s3_server, s3_bucket, tmp_path, monkeypatch):
    use_identity(monkeypatch, s3_server.environment("writer"))
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "cache"))
    address = f"s3://{s3_bucket}"
    run = ["run", "--preset", "tiny", "--out", tmp_path / "run", "--store", f"{address}/store"]
    run += ["--set", f"model.name={address}/model", "--set", f"registry.address={address}/registry"]
    texts = []

    code, text = lorapar("models", "mirror", "builtin:tiny", f"{address}/model", talkative=True)
    assert code == 0, text
    texts.append(text)
    for wrong in (
        {"AWS_SECRET_ACCESS_KEY": WRONG_SECRET},
        {"AWS_SESSION_TOKEN": WRONG_TOKEN},
        {"AWS_ENDPOINT_URL": "http://user:planted-wrong-secret-0123456789@127.0.0.1:9"},
    ):
        code, text = lorapar(*run, talkative=True, **wrong)
        assert code in (2, 3), text
        texts.append(text)
    code, text = lorapar(*run)
    assert code == 0, text
    texts.append(text)

    assert not found_in_text("\n".join(texts), SECRETS)
    assert not found_in_folder(tmp_path, SECRETS)
    assert not found_in_bucket(s3_server.client(), s3_bucket, SECRETS)


def test_the_search_would_find_them(s3_server, s3_bucket, tmp_path):
    (tmp_path / "log").write_text(f"... {HUB_TOKEN} ...")
    s3_server.client().put_object(Bucket=s3_bucket, Key="a", Body=b"", Metadata={"by": WRONG_TOKEN})
    assert found_in_folder(tmp_path, SECRETS)
    assert found_in_bucket(s3_server.client(), s3_bucket, SECRETS)
    assert found_in_text(f"key {WRONG_SECRET}", SECRETS)
