"""The server's pod of values-kind.yaml, run for real: first container, command, environment, and `helm test`'s check.

Everything is as rendered but for places: /cache is a folder of the test, the registry a folder too (its S3 side is
tested in tests/integration/serving), the port is a free one, and the thread limits are those of the tests' machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorapar.registry import Registry
from lorapar.serving import ServerCommand
from lorapar.store import open_store
from tests.helm.chart import CHART, environment, only, pod_spec, render
from tests.helm.test_monitoring import QUERIES
from tests.integration.serving.adapters import make_adapter
from tests.integration.serving.vllm_server import PYTHON, VllmServer

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make vllm-env` makes the environment with vLLM")
MODEL, ADAPTER = "builtin:tiny", "tiny@candidate"


def variables(container: dict[str, Any], folder: Path) -> dict[str, str]:
    """A container's plain variables, with its places moved below a folder."""
    plain = {name: value for name, value in environment(container).items() if isinstance(value, str)}
    moved = {name: value.replace("/cache", str(folder / "cache")) for name, value in plain.items()}
    del moved["AWS_ENDPOINT_URL_S3"]
    return {**moved, "TMPDIR": str(folder), "LORAPAR_REGISTRY": str(folder / "registry")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The pod's two containers, one after the other; a version of the adapter is there, as after a run."""
    folder = tmp_path_factory.mktemp("pod")
    (folder / "cache").mkdir()
    spec = pod_spec(only(render("kind"), "Deployment", "-serving"))
    assert spec
    (init,), (container,) = spec["initContainers"], spec["containers"]
    script, model, link = init["command"][1:]
    command = [PYTHON, CHART / "files" / Path(script).name, model, link.replace("/cache", str(folder / "cache"))]
    fetched = subprocess.run(
        command, env={**os.environ, **variables(init, folder)}, capture_output=True, text=True, check=False, timeout=120
    )
    assert fetched.returncode == 0, fetched.stderr
    registry = Registry(open_store(folder / "registry"))
    registry.publish("tiny", make_adapter(folder / "made", seed=1))
    registry.set_alias("tiny", "candidate", 1)
    registry.add_verdict(registry.resolve("tiny@1"), {"better": False})
    words = [word.replace("/cache", str(folder / "cache")) for word in (*container["command"], *container["args"])]
    words = [word for word in words if not word.startswith(("--host=", "--port="))]
    running = VllmServer(ServerCommand(variables(container, folder), (*words, "--host=127.0.0.1")), folder)
    running.start({"OMP_NUM_THREADS": "1"})
    yield running
    running.stop()


def completion_check(server: VllmServer, model: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` does."""
    command = [sys.executable, CHART / "files" / "check_completion.py", f"http://127.0.0.1:{server.port}", model]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_helm_test_s_completion_check_gets_an_answer_of_the_base_model(server: VllmServer) -> None:
    done = completion_check(server, MODEL)
    assert done.returncode == 0, done.stderr
    assert f"{MODEL} answered" in done.stdout


def test_the_adapter_that_a_run_publishes_is_served_by_its_alias(server: VllmServer) -> None:
    done = completion_check(server, ADAPTER)
    assert done.returncode == 0, done.stderr
    assert "tiny@1 answered" in done.stdout


def test_an_unknown_model_fails_the_check_in_the_server_s_words(server: VllmServer) -> None:
    done = completion_check(server, "nobody")
    assert done.returncode == 1
    assert "404" in done.stderr


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_the_load_endpoints_are_closed_to_everybody(server: VllmServer, path: str) -> None:
    reply = server.post(path, {"lora_name": "evil", "lora_path": "/tmp/evil"})  # noqa: S108
    assert reply.status == 403


def test_the_probes_path_answers(server: VllmServer) -> None:
    (container,) = pod_spec(only(render("kind"), "Deployment", "-serving"))["containers"]  # type: ignore[index]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.get(container[probe]["httpGet"]["path"]).status == 200


def test_every_metric_that_alerts_and_dashboard_ask_for_is_there(server: VllmServer) -> None:
    """Counters of what has not happened yet (a failed load, say) have no samples, but are declared all the same."""
    text = server.get("/metrics").body.decode()
    declared = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    asked = {name for _, query in QUERIES for name in re.findall(r"\b((?:vllm:|lorapar_)\w+)", query)}
    missing = {name for name in asked if name not in declared and name.removesuffix("_bucket") not in declared}
    assert not missing


def test_the_gate_s_verdict_on_the_served_version_is_in_the_metrics(server: VllmServer) -> None:
    text = server.get("/metrics").body.decode()
    line = 'lorapar_serving_gate_better{adapter="tiny",alias="candidate",version="1"} 0.0'
    assert line in text.splitlines()


def test_models_lists_what_clients_may_ask_for(server: VllmServer) -> None:
    listed = {card["id"] for card in json.loads(server.get("/v1/models").body)["data"]}
    assert {MODEL, ADAPTER} <= listed
