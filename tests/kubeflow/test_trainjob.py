"""What a TrainJob carries over from the task's pod, and how a task starts, finds, follows and ends one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorapar.errors import (
    BadInputError,
    IntegrityError,
    StoppedError,
    StorageError,
    Terminated,
    TrainingError,
    UnreachableError,
)
from lorapar.kubeflow import train_nodes
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.tasks import read_takes
from lorapar.kubeflow.train_nodes import NodeOutcome, train_on_nodes, work_as_node
from lorapar.kubeflow.trainjob import JobName, SeveralNodes, train_job
from lorapar.local.execute import new_record
from lorapar.local.folder import StageRecord
from lorapar.stages.nodes import VARIABLES
from lorapar.store import open_store
from tests.kubeflow.own_pod import own_pod
from tests.kubeflow.trainer_double import VALIDATOR, TrainerDouble
from tests.notes import Notes

RUN = "run-abc"
COMMAND = ("lorapar", "stage", "rl", "--executor-input", '{"inputs": "$(HOME)"}')
TWO = SeveralNodes(
    nodes=2, processes=4, count=4, memory="64Gi", annotations={"example.com/cost": "17"}, timeout_seconds=3600
)
IDLE = "trap 'exit 143' TERM; while :; do sleep 0.05; done"


@pytest.fixture
def record() -> StageRecord:
    """Of a node that has not run yet."""
    return new_record("rl", "rl", {"trains": ["rl"]}, {"adapter": ["0" * 64]})


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerDouble]:
    """A cluster whose nodes run what a test gives them."""
    monkeypatch.setattr(train_nodes, "POLL_SECONDS", 0.02)
    keys = {("keys", "id"): "someone", ("keys", "secret"): "s3cret"}
    with TrainerDouble(tmp_path, own_pod({}, wanted=""), keys) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The store of one run."""
    return Ledger(open_store(tmp_path / "store"), RUN)


Leaves = Callable[..., list[str]]


@pytest.fixture
def leaves(tmp_path: Path) -> Leaves:
    """The command of a node that says a line, leaves how it ended, and ends."""

    def made(outcome: NodeOutcome | None, code: int = 0, line: str = "at work") -> list[str]:
        place = f"{tmp_path}/store/runs/{RUN}/nodes/$LORAPAR_ATTEMPT"
        text = "" if outcome is None else outcome.model_dump_json()
        keep = "" if outcome is None else f'mkdir -p "{place}"; printf %s "$1" > "{place}/$PET_NODE_RANK.json"; '
        return ["sh", "-c", f"echo '{line}'; {keep}exit {code}", "sh", text]

    return made


def trained(ledger: Ledger, record: StageRecord, notes: Notes | None = None) -> StageRecord:
    return train_on_nodes(ledger, record, TWO, COMMAND, notes or Notes())


@pytest.mark.parametrize(
    ("count", "message"), [(4, "2 nodes x 4 processes, 4 nvidia.com/gpu each"), (0, "2 nodes x 4 processes")]
)
def test_what_several_nodes_take_is_reported_and_read_again(count: int, message: str) -> None:
    takes = TWO.model_copy(update={"count": count}).takes
    assert takes.text() == message
    assert read_takes({"rl": takes.dump()}) == {"rl": takes}


def test_a_node_sees_what_the_task_sees_and_nothing_of_argo() -> None:
    pod = own_pod({"HTTPS_PROXY": "http://proxy.example:3128"}, wanted="{}")
    job = train_job(pod, TWO, JobName(RUN, "rl", "k" * 64), "lorapar-rl-0-1", COMMAND)
    assert [one.message for one in VALIDATOR.iter_errors(job)] == []
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    trainer = job["spec"]["trainer"]
    assert trainer["image"] == pod["spec"]["containers"][1]["image"]
    assert (trainer["command"], trainer["args"]) == (
        ["lorapar", "stage", "rl"],
        ["--executor-input", '{"inputs": "$$(HOME)"}'],
    )
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "4"}
    env = {one["name"]: one for one in trainer["env"]}
    assert set(env) == {
        "LORAPAR_RUN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "LORAPAR_ATTEMPT",
    }  # fmt: skip
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "secret"}
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = node["template"]["spec"]["template"]
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert {one["mountPath"] for one in container["volumeMounts"]} == {
        "/scratch", "/tmp", "/dev/shm", "/run/lorapar", "/etc/lorapar/ca", "/models",  # noqa: S108
    }  # fmt: skip
    assert {one["name"] for one in spec["volumes"]} == {one["name"] for one in container["volumeMounts"]}
    assert next(one for one in spec["volumes"] if one["name"] == "shm")["emptyDir"]["sizeLimit"] == "16Gi"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for name in ("serviceAccountName", "imagePullSecrets", "nodeSelector", "securityContext"):
        assert spec[name] == pod["spec"][name]
    assert [one["key"] for one in spec["tolerations"]] == ["nvidia.com/gpu"]
    assert template["metadata"]["annotations"] == {"example.com/cost": "17", "sidecar.istio.io/inject": "false"}
    assert template["metadata"]["labels"] == {
        "pipeline/runid": RUN, "lorapar/stage": "rl", "pipelines.kubeflow.org/v2_component": "true",
        "lorapar/run": RUN, "lorapar/node": "rl",
    }  # fmt: skip


def test_a_job_goes_with_its_run_and_waits_in_its_queue() -> None:
    pod = own_pod({}, wanted="{}")
    job = train_job(pod, TWO, JobName(RUN, "rl", "k" * 64), "lorapar-rl-0-1", COMMAND)["metadata"]
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-abc-xyz", "uid": "2222"}
    assert job["ownerReferences"] == [workflow]
    assert job["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    pod["metadata"]["ownerReferences"] = []
    job = train_job(pod, TWO, JobName(RUN, "rl", "k" * 64), "lorapar-rl-0-1", COMMAND)["metadata"]
    assert job["ownerReferences"][0]["kind"] == "Pod"


def test_the_types_of_kubeflow_trainer_lose_nothing_of_it() -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    job = train_job(own_pod({}, wanted="{}"), TWO, JobName(RUN, "rl", "k" * 64), "lorapar-rl-0-1", COMMAND)
    assert TrainerV1alpha1TrainJob.from_dict(json.loads(json.dumps(job))).to_dict() == job


def test_the_task_ends_with_the_record_of_the_first_node_and_shows_its_log(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves, capsys: pytest.CaptureFixture[str]
) -> None:
    made = record.model_copy(update={"metrics": {"steps": 3.0}, "outputs": {"adapter": "1" * 64}})
    outcomes = {0: NodeOutcome(record=made), 1: NodeOutcome(of_another=True)}
    double.run = lambda rank: leaves(outcomes[rank], line=f"rl: node {rank} of two")
    notes = Notes()
    assert trained(ledger, record, notes) == made
    assert capsys.readouterr().out == "rl: node 0 of two\n"
    assert notes.lines[0].startswith("TrainJob lorapar-rl-")
    assert "kubectl -n team get trainjob lorapar-rl-" in notes.lines[0]


INPUT = NodeOutcome(exit_code=2, message="rl.rewards: x")
BUG = NodeOutcome(exit_code=1, message="Traceback ...\nKeyError: 'x'")
TOLD = NodeOutcome(exit_code=143)
OTHER = NodeOutcome(exit_code=4, message="a reward failed in another process", of_another=True)


@pytest.mark.parametrize("restarts", [True, False], ids=["torch-distributed", "a runtime that restarts nothing"])
@pytest.mark.parametrize(
    ("first", "second", "codes", "kind", "message"),
    [
        (INPUT, NodeOutcome(exit_code=2, of_another=True), (2, 2), BadInputError, "^rl.rewards: x$"),
        (OTHER, NodeOutcome(exit_code=4, message="loss is NaN"), (4, 4), TrainingError, "^loss is NaN$"),
        (NodeOutcome(exit_code=6, message="x: its bytes"), TOLD, (6, 143), IntegrityError, "^x: its bytes$"),
        (TOLD, TOLD, (143, 143), Terminated, None),
        (OTHER, None, (4, 137), TrainingError, r"node 1 .* was killed \(OOMKilled, exit code 137\).*`memory`"),
        (BUG, TOLD, (1, 143), RuntimeError, "KeyError: 'x'"),
        (None, None, (126, 0), RuntimeError, "node 0: exit code 126 Error.*describe trainjob lorapar-rl-"),
    ],
    ids=["input", "training", "integrity", "stopped", "killed", "bug", "no word"],
)  # fmt: skip
def test_the_task_ends_as_the_node_that_has_something_to_say(
    double: TrainerDouble,
    ledger: Ledger,
    record: StageRecord,
    leaves: Leaves,
    restarts,
    first,
    second,
    codes,
    kind,
    message,
) -> None:
    double.restarts = restarts
    double.run = lambda rank: leaves((first, second)[rank], codes[rank])
    with pytest.raises(kind, match=message):
        trained(ledger, record)
    assert any(line.startswith("DELETE ") for line in double.asked)


def in_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kubeflow.test_trainjob.TWO", TWO.model_copy(update={"timeout_seconds": 1}))


@pytest.mark.parametrize("node", [TOLD, None], ids=["saved in time", "left no word"])
def test_a_job_that_ran_out_of_its_time_says_which_setting_ended_it(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves, monkeypatch, node
) -> None:
    in_short_time(monkeypatch)
    end = leaves(node, 143)
    double.run = lambda rank: [*end[:2], f"sh() {{ {end[2]}; }}; trap sh TERM; while :; do sleep 0.05; done", *end[3:]]
    message = r"lorapar-rl-\w+ was ended after 1 s, its timeout_seconds in the placement file.*the next run goes on"
    with pytest.raises(StoppedError, match=message) as stopped:
        trained(ledger, record)
    assert stopped.value.exit_code == 143
    assert not double.jobs or all("deletionTimestamp" in one["metadata"] for one in double.jobs.values())


def test_an_error_of_a_node_says_more_than_the_time_that_ran_out(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves, monkeypatch
) -> None:
    """The other node, which waited for it, ran on until the deadline."""
    in_short_time(monkeypatch)
    double.run = lambda rank: ["sh", "-c", IDLE] if rank else leaves(NodeOutcome(exit_code=5, message="disk full"), 0)
    with pytest.raises(StorageError, match=r"^disk full$"):
        trained(ledger, record)


def test_a_job_that_trainer_itself_fails_is_reported_in_its_words(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, monkeypatch
) -> None:
    double.run = lambda rank: ["sh", "-c", IDLE]
    job = started(ledger, record, Notes())
    message = {"type": "Failed", "status": "True", "reason": "ResourcesCreationFailed", "message": "no PodGroup"}
    double.jobs[job.name]["status"] = {"conditions": [message]}
    job.follow()
    with pytest.raises(
        RuntimeError, match=r"failed \(ResourcesCreationFailed: no PodGroup\); kubectl -n team describe"
    ):
        job.conclude()


def started(ledger: Ledger, record: StageRecord, notes: Notes) -> Any:
    job = train_nodes._Job(train_nodes.TrainerApi(), ledger, JobName(RUN, record.node, record.key), TWO, notes)
    job.start(COMMAND)
    return job


def test_a_task_that_is_tried_again_follows_the_job_it_had_started(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves
) -> None:
    double.run = lambda rank: leaves(NodeOutcome(record=record if rank == 0 else None))
    started(ledger, record, Notes())
    notes = Notes()
    assert trained(ledger, record, notes) == record
    assert notes.lines[0].endswith("of an earlier try is there; following it")
    assert sum(line.startswith("POST ") for line in double.asked) == 1


def test_a_job_that_has_failed_is_removed_before_the_next_is_started(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves
) -> None:
    double.restarts, double.run = False, lambda rank: leaves(TOLD, 143)
    name = started(ledger, record, Notes()).name
    deadline = time.monotonic() + 60
    while "status" not in double.get(name)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    double.run = lambda rank: leaves(NodeOutcome(record=record if rank == 0 else None))
    notes = Notes()
    assert trained(ledger, record, notes) == record
    assert "waiting until it is gone" in notes.lines[0]


def test_a_job_that_does_not_go_away_is_not_waited_for_for_ever(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a machine is lost: its pod stays in deletion, and the job with it."""
    double.run = lambda rank: ["sh", "-c", IDLE]
    name = started(ledger, record, Notes()).name
    double.jobs[name]["metadata"]["deletionTimestamp"] = "2026-11-29T00:00:00Z"
    monkeypatch.setattr(train_nodes.TrainerApi, "delete", lambda *_: None)
    monkeypatch.setattr(train_nodes, "GONE_SECONDS", 0.05)
    with pytest.raises(UnreachableError, match=f"the TrainJob {name} of an earlier try is still there 0 s after"):
        trained(ledger, record)


def test_a_job_of_somebody_else_is_left_alone(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves
) -> None:
    double.run = lambda rank: ["sh", "-c", IDLE]
    name = started(ledger, record, Notes()).name
    double.jobs[name]["metadata"]["annotations"]["lorapar/key"] = "another"
    with pytest.raises(BadInputError, match="is there and not this task's; delete it"):
        trained(ledger, record)
    assert name in double.jobs
    double.jobs[name]["metadata"]["annotations"] |= {"lorapar/key": record.key, "lorapar/attempt": "../../x"}
    with pytest.raises(BadInputError, match=r"'\.\./\.\./x' is no name"):
        trained(ledger, record)


class StoppedAtOnce(Notes):
    """A Progress in whose first line SIGTERM arrives."""

    def log(self, line: str) -> None:
        """Remember the line; the first ends the task."""
        super().log(line)
        if len(self.lines) == 1:
            raise Terminated


def test_a_task_that_is_told_to_stop_ends_its_job(double: TrainerDouble, ledger: Ledger, record: StageRecord) -> None:
    double.run = lambda rank: ["sh", "-c", IDLE]
    notes = StoppedAtOnce()
    with pytest.raises(Terminated):
        trained(ledger, record, notes)
    assert "told to stop" in notes.lines[-1]
    assert not double.jobs
    assert "propagationPolicy=Foreground" in next(line for line in double.asked if line.startswith("DELETE "))


def test_a_job_that_a_person_deletes_has_stopped_and_not_failed(
    double: TrainerDouble, ledger: Ledger, record: StageRecord
) -> None:
    double.run = lambda rank: ["sh", "-c", IDLE]
    job = started(ledger, record, Notes())
    double.delete(job.name)
    with pytest.raises(StoppedError, match="was deleted") as stopped:
        job.follow()
    assert stopped.value.exit_code == 143


class Impatient(Notes):
    """A Progress that ends the task once it has been told what the job waits for."""

    def log(self, line: str) -> None:
        """Remember the line."""
        super().log(line)
        if "kubectl" in line and len(self.lines) > 1:
            raise Terminated


@pytest.mark.parametrize(
    ("suspended", "message"),
    [
        (False, "node-0-0-.* asks for 4 nvidia.com/gpu, waits: 0/3 nodes are available: 3 Insufficient .*describe pod"),
        (True, "is suspended: Kueue has not admitted it to the queue team; see kubectl -n team get workloads"),
    ],
)
def test_after_two_minutes_it_is_reported_what_a_job_waits_for(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, monkeypatch: pytest.MonkeyPatch, suspended, message
) -> None:
    assert train_nodes.PATIENCE_SECONDS == 120
    monkeypatch.setattr(train_nodes, "PATIENCE_SECONDS", 0)
    double.waits_for = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    name = started(ledger, record, Notes()).name
    if suspended:
        double.suspend(name)
    notes = Impatient()
    with pytest.raises(Terminated):
        trained(ledger, record, notes)
    assert any(re.search(message, line) for line in notes.lines), notes.lines


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"may": False}, BadInputError, "cannot create resource.*pipeline.trainJobs.enabled"),
        ({"runtimes": ()}, BadInputError, "clusterTrainingRuntime must be created before"),
        ({"installed": False}, BadInputError, "Kubeflow Trainer 2 must be installed"),
        ({"drops": ("runtimePatches",)}, BadInputError, "^the Kubeflow Trainer of this cluster is too old: .*2.3"),
        ({"drops": ("runtimePatches",), "is_strict": False}, BadInputError, "too old: its TrainJobs have no `runtimeP"),
        ({"failing": 99}, UnreachableError, "Kubernetes says 503"),
    ],
)
def test_what_kubernetes_refuses_is_one_line(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, change, kind, message
) -> None:
    for name, value in change.items():
        setattr(double, name, value)
    with pytest.raises(kind, match=message):
        trained(ledger, record)
    assert not double.jobs, "nothing is left that holds accelerators"


def test_a_control_plane_that_is_away_for_a_moment_ends_nothing(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves
) -> None:
    double.run = lambda rank: leaves(NodeOutcome(record=record if rank == 0 else None))
    job = started(ledger, record, Notes())
    double.failing = 5
    job.follow()
    assert job.conclude() == record


def test_a_container_that_is_started_again_ends_as_it_had(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = "lorapar-rl-0123456789ab-01234567"
    for name, value in zip(VARIABLES, ("2", "1", "1", "first", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LORAPAR_ATTEMPT", attempt)
    train_nodes.Outcomes(ledger, attempt).write(1, NodeOutcome(exit_code=2, message="rl.rewards: x"))
    with pytest.raises(SystemExit) as ended:
        work_as_node(ledger, tmp_path, lambda crew: pytest.fail("it works again"))
    assert ended.value.code == 2


def test_images_of_two_versions_are_reported_apart(
    double: TrainerDouble, ledger: Ledger, record: StageRecord, leaves: Leaves
) -> None:
    other = record.model_copy(update={"code": "another"})
    double.run = lambda rank: leaves(NodeOutcome(record=other if rank == 0 else None))
    with pytest.raises(BadInputError, match="both images must hold the same lorapar"):
        trained(ledger, record)
