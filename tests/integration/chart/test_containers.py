"""The pods of values-kind.yaml in the images of this checkout: read-only root, no capabilities, user 10001.

Needs the images that `images/build.sh` makes (`make e2e` does) and a docker that runs them; skipped otherwise.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorapar.registry import Registry
from lorapar.store import open_store
from tests.helm.chart import Manifest, of_kind, only, render
from tests.helm.test_scripts import KEYS, store  # noqa: F401  -- a fixture: SeaweedFS as the chart starts it
from tests.integration.chart.pod_runner import DOCKER, PodRunner, image_is_here
from tests.integration.s3_server import free_ports
from tests.integration.serving.adapters import make_adapter
from tests.kubeflow.api_double import Double

pytestmark = pytest.mark.skipif(
    not all(map(image_is_here, ("client", "vllm"))), reason="no images here: images/build.sh makes them"
)
IN_CLUSTER = "http://lorapar-object-store.ml.svc.cluster.local:9000"
STORE_CHECK, COMPLETION_CHECK = "-test-store", "-test-completion"


@pytest.fixture(scope="module")
def endpoint(store: dict[str, str]) -> str:  # noqa: F811
    return store["AWS_ENDPOINT_URL_S3"]


def manifests() -> list[Manifest]:
    return render("kind")


def bucket_job(folder: Path, endpoint: str) -> PodRunner:
    (job,) = [m for m in of_kind(manifests(), "Job") if "-bucket-" in m["metadata"]["name"]]
    return PodRunner(job, folder, KEYS, {IN_CLUSTER: endpoint})


def test_the_bucket_job_and_the_store_check(endpoint: str, tmp_path: Path) -> None:
    made = bucket_job(tmp_path, endpoint).run("bucket")
    assert made.returncode == 0, made.stderr
    check = PodRunner(only(manifests(), "Pod", STORE_CHECK), tmp_path, KEYS, {IN_CLUSTER: endpoint}).run("check")
    assert check.returncode == 0, check.stderr
    assert "protected against a second writer" in check.stdout


def test_the_hook_job_compiles_and_uploads(tmp_path: Path) -> None:
    kubeflow = Double()
    job = PodRunner(
        only(manifests(), "Job", "-upload"), tmp_path, moved={"http://ml-pipeline.kubeflow:8888": kubeflow.address}
    )
    (tmp_path / "config").mkdir()
    for name, text in only(manifests(), "ConfigMap", "-upload")["data"].items():
        (tmp_path / "config" / name).write_text(text, encoding="utf-8")
    compiled, uploaded = job.run("compile"), job.run("upload")
    kubeflow.stop()
    assert compiled.returncode == 0, compiled.stderr
    assert uploaded.returncode == 0, uploaded.stderr
    assert "uploaded" in uploaded.stdout


@pytest.fixture(scope="module")
def server(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The serving pod in its image, with an adapter in the registry on S3; its address."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patched.setenv(name, value)
        assert bucket_job(folder, endpoint).run("bucket").returncode == 0
        registry = Registry(open_store("s3://lorapar/registry"))
        registry.publish("tiny", make_adapter(folder / "made", seed=1))
        registry.set_alias("tiny", "candidate", 1)
    (port,) = free_ports(1)
    serving = PodRunner(
        only(manifests(), "Deployment", "-serving"),
        folder,
        KEYS,
        {IN_CLUSTER: endpoint, "--port=8000": f"--port={port}", "--host=::": "--host=127.0.0.1"},
    )
    fetched = serving.run("model")
    assert fetched.returncode == 0, fetched.stderr
    name = f"lorapar-chart-test-{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(serving.command("vllm", "--name", name), stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 420
    while not healthy(address):
        if process.poll() is not None or time.monotonic() > deadline:
            subprocess.run([DOCKER, "rm", "--force", name], capture_output=True, check=False)
            pytest.fail((folder / "log").read_text(encoding="utf-8", errors="replace")[-4000:])
        time.sleep(0.5)
    yield address
    subprocess.run([DOCKER, "rm", "--force", name], capture_output=True, check=False)
    process.wait(30)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize(("asked", "answers"), [("builtin:tiny", "builtin:tiny"), ("tiny@candidate", "tiny@1")])
def test_helm_test_s_pod_gets_a_completion_from_the_serving_pod(
    server: str, asked: str, answers: str, tmp_path: Path
) -> None:
    moved = {"http://lorapar-serving.ml.svc.cluster.local:80": server}
    asking = render("kind", {"tests": {"servedModel": asked}})
    done = PodRunner(only(asking, "Pod", COMPLETION_CHECK), tmp_path, KEYS, moved).run("check")
    assert done.returncode == 0, done.stderr
    assert f"{answers} answered" in done.stdout


def test_models_are_listed_as_clients_ask_for_them(server: str) -> None:
    with urllib.request.urlopen(f"{server}/v1/models", timeout=30) as answer:  # noqa: S310
        listed = {card["id"] for card in json.load(answer)["data"]}
    assert {"builtin:tiny", "tiny@candidate"} <= listed
