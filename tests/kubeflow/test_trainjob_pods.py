"""What the pods of a TrainJob say: what they wait for, how they ended."""

from __future__ import annotations

from typing import Any

import pytest

from lorapar.kubeflow.trainer_api import JobPod, why_not_started
from lorapar.kubeflow.trainjob import SeveralNodes

TWO = SeveralNodes(
    nodes=2, processes=4, count=4, memory="64Gi", annotations={"example.com/cost": "17"}, timeout_seconds=3600
)


def test_a_job_that_has_been_resumed_and_a_pod_that_has_a_place_are_not_reported_to_wait() -> None:
    """Conditions stay with status False, or True, once what they tell of is over."""
    resumed = {"type": "Suspended", "status": "False", "reason": "Resumed"}
    job = {"metadata": {"name": "lorapar-rl-1"}, "status": {"conditions": [resumed]}}
    placed = {"type": "PodScheduled", "status": "True", "message": "an old word"}
    ready = {"type": "Ready", "status": "False", "message": "containers with unready status"}
    status = {"phase": "Pending", "conditions": [placed, ready]}
    pod = JobPod.of({"metadata": {"name": "p", "labels": {}}, "status": status})
    assert pod.waits_for == ""
    assert why_not_started(job, [pod], TWO, "team").startswith(
        "the TrainJob lorapar-rl-1 has not started: p, which asks"
    )


@pytest.mark.parametrize("state", [{"running": {}}, {"terminated": {"exitCode": 0}}])
def test_a_pod_has_started_while_it_runs_and_once_it_has_ended(state: dict[str, Any]) -> None:
    status = {"phase": "Running", "containerStatuses": [{"name": "node", "state": state}]}
    assert JobPod.of({"metadata": {"name": "p", "labels": {}}, "status": status}).started


def test_other_things_a_pod_may_wait_for() -> None:
    job = {"metadata": {"name": "lorapar-rl-1"}}
    assert "0 of 2 pods have been made; see kubectl -n team describe trainjob" in why_not_started(job, [], TWO, "team")
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    status = {"phase": "Pending", "containerStatuses": [{"name": "node", "state": {"waiting": waiting}}]}
    pod = JobPod.of({"metadata": {"name": "p", "labels": {}}, "status": status})
    assert "waits: ImagePullBackOff Back-off pulling image" in why_not_started(job, [pod], TWO, "team")


def test_a_pod_that_was_reported_to_go_has_not_failed() -> None:
    """As where Kueue takes the quota back, or a node is drained: its job makes another."""
    status = {"containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": 143}}}]}
    metadata = {"name": "p", "labels": {"batch.kubernetes.io/job-completion-index": "1"}}
    assert JobPod.of({"metadata": metadata, "status": status}).failed
    assert not JobPod.of({"metadata": {**metadata, "deletionTimestamp": "now"}, "status": status}).failed
    evicted = JobPod.of({"metadata": metadata, "status": {"phase": "Failed", "reason": "Evicted"}})
    assert (evicted.failed, evicted.exit_code, evicted.reason, evicted.rank) == (True, 137, "Evicted", 1)
