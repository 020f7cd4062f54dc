"""Credentials appear nowhere: not in logs, artifacts, manifests, checkpoints or messages, whatever goes wrong.

A run is made to fail in the ways that have to do with credentials, is killed, and is finished; then every byte on the
disk and in the bucket is searched for what was planted in its environment.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from lorapar.errors import ExitCode
from tests.integration.resume.conftest import PLANTED_TOKEN
from tests.integration.resume.test_kill import Moment, reach
from tests.integration.resume.warm import WarmCommand
from tests.integration.s3_server import KEYS, S3Server, free_ports

SESSION = "PlantedSessionTokenOfTheResumeTests0002"
PASSWORD = "planted-password-0003"
KEY_ID, SECRET = KEYS["admin"]
SECRETS = (SECRET, KEYS["stranger"][1], SESSION, PASSWORD, PLANTED_TOKEN, SECRET[:-1] + "X")


def everything(root: Path, server: S3Server, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Every file and every object, with their names among their bytes."""
    for path in root.rglob("*"):
        if path.is_file():
            yield str(path), str(path).encode() + path.read_bytes()
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            yield entry["Key"], entry["Key"].encode() + body


def test_planted_secrets_are_found_nowhere(
    command: WarmCommand, arguments: list[str], s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    store = f"s3://{s3_bucket}/secrets"
    nobody = f"http://{KEY_ID}:{PASSWORD}@127.0.0.1:{free_ports(1)[0]}"
    stranger_id, stranger_secret = KEYS["stranger"]
    failures = {
        "wrong-secret": {"AWS_SECRET_ACCESS_KEY": SECRET[:-1] + "X"},
        "no-permission": {"AWS_ACCESS_KEY_ID": stranger_id, "AWS_SECRET_ACCESS_KEY": stranger_secret},
        "session-token": {"AWS_ACCESS_KEY_ID": "NOBODYKNOWSTHISKEY01", "AWS_SESSION_TOKEN": SESSION},
        "nobody-there": {"AWS_ENDPOINT_URL": nobody, "AWS_MAX_ATTEMPTS": "1"},
    }
    here = [*arguments, "--out", str(tmp_path / "run"), "--store", store]
    for name, environment in failures.items():
        log = tmp_path / f"{name}.log"
        code = command.start(*here, log=log, environment=environment).wait()
        assert code == ExitCode.UNREACHABLE, log.read_text()
        assert s3_bucket in log.read_text().splitlines()[-1]
        assert "Traceback" not in log.read_text()
    diverging = ["--set", "sft.learning_rate=1e30"]
    log = tmp_path / "runs.log"
    assert command.start(*here, *diverging, log=log).wait() == ExitCode.TRAINING_FAILED, log.read_text()
    killed = command.start(*here, log=log)
    reach(killed, tmp_path / "run", Moment("rl", 0.5))
    killed.send(signal.SIGKILL)
    assert killed.wait() in (-signal.SIGKILL, 0)
    found = search(tmp_path, s3_server, s3_bucket)
    assert command.start(*here, log=log).wait() == 0, log.read_text()
    assert found | search(tmp_path, s3_server, s3_bucket) == set()


def search(root: Path, server: S3Server, bucket: str) -> set[tuple[str, str]]:
    """Where a secret was found; a canary shows that the search would find one."""
    searched = list(everything(root, server, bucket))
    assert any(b"adapter_model.safetensors" in data for _, data in searched)
    assert any(name.startswith("secrets/finished/") for name, _ in searched)
    return {(name, secret) for name, data in searched for secret in SECRETS if secret.encode() in data}
