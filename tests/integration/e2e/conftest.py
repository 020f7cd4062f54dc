"""Running the shipped pipeline in its real containers, hardened, against a real S3 server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.placement import Placement
from lorapar.kubeflow.tasks import IMAGES, default_reference
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server

USER = 10001
HARDENED: Mapping[str, Any] = {
    # The S3 server listens on this machine only.
    "network_mode": "host",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "user": f"{USER}:{USER}",
    "tmpfs": {"/scratch": f"mode=1777,uid={USER},exec"},
}


@dataclass(frozen=True)
class Ran:
    """What a run of the pipeline left."""

    store: str
    """Address of its store."""
    root: Path
    """Where Kubeflow keeps its own artifacts."""


@pytest.fixture(scope="session")
def docker() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The docker command; skips where it, or an image, is not there."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed; `make e2e` installs it and builds the images")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=120)

    for image in IMAGES:
        if run("image", "inspect", default_reference(image)).returncode:
            pytest.skip(f"{default_reference(image)} is not built; `make e2e` builds it")
    return run


@pytest.fixture(scope="module")
def pipeline_root() -> Iterator[Path]:
    """A folder that the containers' user may write, at the same path inside and outside."""
    root = Path(tempfile.mkdtemp(prefix="lorapar-e2e-"))
    root.chmod(0o777)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def run_pipeline(docker: object, s3_server: S3Server, pipeline_root: Path) -> Callable[..., Ran]:
    """Run the shipped package, unchanged but for one vote task at a time, with kfp's DockerRunner."""
    from kfp import components, local
    from kfp.local.orchestrator import task_executor

    # Tasks of a loop share a folder in kfp.local, and would overwrite each other's outputs if they ran at once.
    package = build_package({}, Placement(vote_parallelism=1))
    pipeline = components.load_component_from_text(package.text())

    def run(bucket: str, **parameters: Any) -> Ran:
        s3_server.client().create_bucket(Bucket=bucket)
        store = f"s3://{bucket}/lorapar"
        environment = {**s3_server.environment(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        runner = local.DockerRunner(**HARDENED, environment=environment)
        root = pipeline_root / bucket
        root.mkdir(mode=0o777)
        root.chmod(0o777)
        local.init(runner, pipeline_root=str(root), workspace_root=str(root / "workspace"), raise_on_error=False)
        with pytest.MonkeyPatch.context() as patch:
            # As on a cluster, a failed task is tried again after half a minute, which changes nothing here.
            patch.setattr(task_executor, "time", SimpleNamespace(sleep=lambda seconds: None))
            pipeline(store=store, **parameters)
        with pytest.MonkeyPatch.context() as patch:
            use_identity(patch, s3_server.environment())
            outcomes = [info.key for info in _listed(store) if info.key.endswith("outcome.json")]
        assert len(outcomes) == 1, "each run of the pipeline writes down its outcome, whatever happened"
        return Ran(store, root)

    return run


def _listed(store: str) -> list[Any]:
    from lorapar.store import open_store

    return list(open_store(store).list("runs/"))


@pytest.fixture
def results(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[Ran, str], bytes]:
    """A result of a run, from its fixed place in the store."""
    from lorapar.store import open_store

    use_identity(monkeypatch, s3_server.environment())

    def read(ran: Ran, name: str) -> bytes:
        (key,) = (info.key for info in _listed(ran.store) if info.key.endswith(f"/{name}"))
        return open_store(ran.store).read(key)

    return read


def as_json(data: bytes) -> Any:
    """A JSON value."""
    return json.loads(data)
