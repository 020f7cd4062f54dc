"""What failed and killed runs leave in their folders, logs and checkpoints holds no credential of theirs.

tests/integration/s3/test_secrets.py does the same for a run that is refused by the server and then finishes.
"""

from __future__ import annotations

import signal
from pathlib import Path

from lorapar.errors import ExitCode
from tests.integration.planted import HUB_TOKEN, found_in_bucket, found_in_folder
from tests.integration.resume.test_kill import Moment, left_over, reach
from tests.integration.s3_server import KEYS, S3Server
from tests.warm import WarmCommand

SECRETS = (*KEYS["admin"], HUB_TOKEN)


def test_failed_and_killed_runs_leave_no_secret(
    command: WarmCommand, arguments: list[str], s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    here = [*arguments, "--out", str(tmp_path / "run"), "--store", f"s3://{s3_bucket}/secrets"]
    log = tmp_path / "log"
    assert command.start(*here, "--set", "sft.learning_rate=1e30", log=log).wait() == ExitCode.TRAINING_FAILED
    killed = command.start(*here, log=log)
    reach(killed, tmp_path / "run", Moment("rl", 0.5))
    killed.send(signal.SIGKILL)
    assert killed.wait() in (-signal.SIGKILL, 0), log.read_text()
    assert left_over(s3_server, s3_bucket, "secrets/checkpoints/sft-")
    assert found_in_folder(tmp_path, SECRETS) == []
    assert found_in_bucket(s3_server.client(), s3_bucket, SECRETS) == []
