"""What `lorapar doctor --host` says of how Argo retries: from a ConfigMap, over a real kubeconfig and real HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorapar.doctor import examine_kubeflow
from lorapar.errors import ExitCode
from lorapar.kubeflow.controller import WANTED, retry_policy
from tests.kubeflow.api_double import Double

# As Kubeflow Pipelines 2.17.0 ships it: manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.
SHIPPED = "spec:\n  ttlStrategy: {secondsAfterCompletion: 3600}\n  templateDefaults:\n    retryStrategy:\n"
SHIPPED += "      limit: '2'\n      retryPolicy: OnError\n"


class Cluster:
    """A Kubernetes API that has one ConfigMap, or refuses it."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {"workflowDefaults": SHIPPED}
        self.status = 200
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                there = self.path == "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
                status = cluster.status if there else 404
                body: dict[str, Any] = {"kind": "ConfigMap", "data": cluster.data} if status == 200 else {}
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def name_kubeconfig(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The client reads KUBECONFIG once, as it is imported."""
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster of the current context."""
    made = Cluster()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": made.address}}],
        "users": [{"name": "me", "user": {"token": "s3cret"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    name_kubeconfig(monkeypatch, path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_stock_kubeflow_is_reported_with_what_is_missing(server: Double, cluster: Cluster) -> None:
    kubeflow, argo = examine_kubeflow(server.address, None)
    assert kubeflow.found == f"{server.address} answers"
    assert argo.found == f"retryPolicy OnError at {cluster.address}"
    assert "set retryPolicy: Always" in argo.advice
    assert not argo.missing, "runs work without it"


def test_a_cluster_that_is_set_up_needs_nothing(server: Double, cluster: Cluster) -> None:
    cluster.data = {"workflowDefaults": SHIPPED.replace("OnError", "Always")}
    assert examine_kubeflow(server.address, None)[1].advice == ""


@pytest.mark.parametrize(("status", "message"), [(403, "refused (403"), (404, "refused (404")])
def test_without_the_right_to_read_it_that_is_reported(
    server: Double, cluster: Cluster, status: int, message: str
) -> None:
    cluster.status = status
    _, argo = examine_kubeflow(server.address, None)
    assert (argo.found, message in argo.advice, "s3cret" in argo.advice) == ("unknown", True, False)


def test_without_a_cluster_that_is_reported(server: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_kubeconfig(monkeypatch, tmp_path / "none")
    assert "no kubectl context here" in examine_kubeflow(server.address, None)[1].advice


def test_a_kubeflow_that_does_not_answer_is_missing(server: Double) -> None:
    server.stop()
    (kubeflow,) = examine_kubeflow(server.address, None)
    assert (kubeflow.missing, kubeflow.exit_code) == (True, ExitCode.UNREACHABLE)


@pytest.mark.parametrize("text", ["", "spec: {}", "- a list", "spec: {templateDefaults: {retryStrategy: {limit: 2}}}"])
def test_where_no_policy_is_named_argo_takes_its_own(text: str) -> None:
    assert retry_policy({"workflowDefaults": text}) == "OnFailure"


def test_the_change_that_the_docs_ask_for_is_the_one_that_doctor_looks_for() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    (block,) = [part for part in page.split("```") if "retryPolicy: Always" in part]
    assert retry_policy({"workflowDefaults": block}) == WANTED
