"""How the API server is found and asked: namespaces of users, pods of the cluster, images, plugins, schedules.

The double (api_double.py) names the release and the files of Kubeflow that it behaves like.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import kubernetes
import pytest

from lorapar import __version__
from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow.checks import plugins_input
from lorapar.kubeflow.controller import WANTED, retry_policy
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.server import Server, Where
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Fate
from tests.kubeflow.conftest import STORE, Call

GOING = Frame("RUNNING", {"plan": "SUCCEEDED", "init": Fate("RUNNING", log="layer 1")})
DIGEST = "@sha256:" + "a" * 64


# --- namespaces and pods ---------------------------------------------------------------------------------------------


def test_a_second_submit_into_a_users_namespace_finds_the_pipeline_of_the_first(server: Double, submit: Call) -> None:
    """kfp's get_pipeline_id names no namespace, while the upload does: the second one ended in 409.

    kfp 2.17.0, sdk/python/kfp/client/client.py, get_pipeline_id; backend/src/apiserver/server/pipeline_server.go.
    """
    server.multi_user = True
    assert submit("--namespace", "alice")[0] == 0
    assert submit("--namespace", "alice")[0] == 0
    assert submit("--namespace", "bob")[0] == 0
    assert list(server.pipeline_namespaces.values()) == ["alice", "bob"]
    assert [run.pipeline_version_reference.pipeline_id for run in server.runs.values()] == [
        "pipeline-0",
        "pipeline-0",
        "pipeline-1",
    ]


def test_schedules_of_a_users_namespace_are_found_there(server: Double, call: Call) -> None:
    server.multi_user = True
    for user in ("alice", "bob"):
        made = call("schedule", "@daily", "--preset", "tiny", "--store", STORE, "--name", user, "--namespace", user)
        assert made[0] == 0, made
    said = call("schedules", "list", "--namespace", "bob")[1]
    assert ("bob" in said, "alice" in said) == (True, False)


@pytest.fixture
def in_a_pod(server: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A pod of the cluster: Kubeflow is a service of its own namespace, here a prefix of the double's paths."""
    import kfp

    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(kfp.Client, "_IN_CLUSTER_DNS_NAME", f"{server.address}/ml-pipeline.{{}}.svc")
    namespace = tmp_path / "namespace"
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(namespace))
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no" / "home" / "context.json"))
    monkeypatch.delenv("KFP_TOKEN")
    server.prefix = "/ml-pipeline.kubeflow.svc"
    return namespace


@pytest.mark.usefixtures("in_a_pod")
def test_in_a_pod_a_users_namespace_is_not_where_the_server_is_looked_for(server: Double) -> None:
    """kfp takes the namespace it is given for Kubeflow's own: ml-pipeline.alice.svc is no service.

    kfp 2.17.0, sdk/python/kfp/client/client.py, _load_config and _IN_CLUSTER_DNS_NAME.
    """
    assert Server(Where(namespace="alice")).runs(None, 5) == []


def test_in_a_pod_of_a_multi_user_kubeflow_the_namespace_is_the_pods_own(server: Double, in_a_pod: Path) -> None:
    in_a_pod.write_text("team-a")
    server.multi_user = True
    package = build_package({}, None)
    client = Server(Where())
    client.upload(package)
    client.upload(package)
    assert list(server.pipeline_namespaces.values()) == ["team-a"]
    assert not (in_a_pod.parent / "no").exists(), "kfp would write it into the home folder, which a pod may not have"


@pytest.mark.parametrize(
    ("host", "said"),
    [("http://127.0.0.1:9", "connection refused"), ("http://nowhere.invalid", "its name is not known here")],
)
def test_why_kubeflow_did_not_answer_is_said_in_words(host: str, said: str) -> None:
    with pytest.raises(UnreachableError, match=rf"Kubeflow did not answer \({said}\); check --host"):
        Server(Where(host))


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a network that drops packets: kfp itself would wait for ever."""
    monkeypatch.setattr("lorapar.kubeflow.server.ANSWER_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UnreachableError, match=r"Kubeflow did not answer \(no answer in time\)"),
    ):
        Server(Where(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_a_server_that_falls_silent_later_is_given_up_too(server: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Server(Where(server.address))
    monkeypatch.setattr("lorapar.kubeflow.server.ANSWER_SECONDS", 0.1)
    held = threading.Event()
    monkeypatch.setattr(server, "show", lambda run: held.wait(60))
    with pytest.raises(UnreachableError, match="Kubeflow did not answer"):
        client.run("run-0")
    held.set()


# --- images and plugins ----------------------------------------------------------------------------------------------


def images(server: Double) -> set[str]:
    """The images of the package that the last run was started from."""
    *_, run = server.runs.values()
    spec = server.packages[run.pipeline_version_reference.pipeline_version_id]["spec"]
    return {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}


PINNED = [f"{name}=registry.example/{name}{DIGEST}" for name in ("client", "trainer", "vllm")]


def test_who_names_no_image_gets_those_of_the_newest_uploaded_version(server: Double, submit: Call) -> None:
    given = [option for one in PINNED for option in ("--image", one)]
    submit(*given)
    code, said = submit("--param", "theta=0.8")
    assert code == 0
    assert images(server) == {one.partition("=")[2] for one in PINNED}
    assert f"images as in version {__version__}-" in said
    assert "named by a tag" not in said
    assert len(server.versions) == 2, "the same package, so the same version"


def test_a_version_with_the_shipped_tags_or_of_another_lorapar_names_no_images(server: Double, submit: Call) -> None:
    submit("--image", f"trainer=old/trainer{DIGEST}")
    for version in server.versions.values():
        version.display_name = version.display_name.replace(__version__, "0.0.9")
    code, said = submit()
    assert code == 0
    assert images(server) == {f"lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}
    assert "images as in" not in said
    submit("--image", f"trainer=new/trainer{DIGEST}")
    submit("--registry", "mirror.example/lorapar")
    assert images(server) == {f"mirror.example/lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}


def test_pinned_images_of_the_uploaded_version_are_digests_too(server: Double, submit: Call) -> None:
    code, said = submit("--require-digests")
    assert (code, "--require-digests: lorapar/client" in said, server.runs) == (2, True, {})
    pinned = [f"--image={name}=r.example/{name}{DIGEST}" for name in ("client", "trainer", "vllm")]
    assert submit("--require-digests", *pinned)[0] == 0
    assert submit("--require-digests")[0] == 0
    assert images(server) == {f"r.example/{name}{DIGEST}" for name in ("client", "trainer", "vllm")}
    submit(*pinned[:2], "--image=vllm=r.example/vllm:1")
    code, said = submit("--require-digests")
    assert (code, "--require-digests: r.example/vllm:1 is not pinned" in said) == (2, True), "the newest counts"


def test_plugins_reach_runs_and_recurring_runs_and_are_off_by_default(server: Double, call: Call, submit: Call) -> None:
    submit()
    submit("--plugins", "mlflow.experiment_name=a=b", "--plugins", "mlflow.disabled=false")
    first, second = server.runs.values()
    assert first.plugins_input is None
    assert second.plugins_input == {"mlflow": {"experiment_name": "a=b", "disabled": False}}
    call("schedule", "@daily", "--preset", "tiny", "--store", STORE, "--plugins", "mlflow.experiment_id=7")
    (made,) = server.recurring.values()
    assert made.plugins_input == {"mlflow": {"experiment_id": "7"}}


def test_a_placement_file_may_name_the_plugins_and_the_command_line_wins(
    server: Double, call: Call, submit: Call, tmp_path: Path
) -> None:
    file = tmp_path / "placement.yaml"
    file.write_text("plugins: {mlflow: {experiment_name: nlp, disabled: false}, other: {key: value}}\n")
    submit("--placement", str(file))
    submit("--placement", str(file), "--plugins", "mlflow.experiment_name=mine")
    first, second = (run.plugins_input for run in server.runs.values())
    assert first == {"mlflow": {"experiment_name": "nlp", "disabled": False}, "other": {"key": "value"}}
    assert second == {"mlflow": {"experiment_name": "mine", "disabled": False}, "other": {"key": "value"}}
    call("schedule", "@daily", "--preset", "tiny", "--store", STORE, "--placement", str(file))
    (made,) = server.recurring.values()
    assert made.plugins_input == first


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ("{mlflow: {experiment: x}}", "did you mean 'experiment_"),
        ("{mlflow: {disabled: maybe}}", "mlflow.disabled: expected true or false"),
        ("{mlflow: {experiment_id: true}}", "mlflow.experiment_id: expected a text"),
        ("{MLflow: {}}", "plugins"),
        ("[mlflow]", "plugins"),
    ],
)
def test_wrong_plugins_in_a_placement_file_are_one_line(submit: Call, tmp_path: Path, plugins: str, said: str) -> None:
    file = tmp_path / "placement.yaml"
    file.write_text(f"plugins: {plugins}\n")
    code, words = submit("--placement", str(file))
    assert (code, words.startswith("--placement"), said in words) == (2, True, True), words


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["mlflow"], "write it as PLUGIN.KEY=VALUE"),
        (["mlflow.experiment=x"], "did you mean 'experiment_"),
        (["mlflow.disabled=maybe"], "expected true or false"),
        (["mlflow.experiment_id=1", "mlflow.experiment_id=2"], "is given twice"),
    ],
)
def test_a_wrong_plugin_input_is_one_line(given: list[str], said: str) -> None:
    with pytest.raises(BadInputError, match=r"^--plugins mlflow") as wrong:
        plugins_input(given)
    assert said in str(wrong.value)


# --- schedules and the runs they have started ------------------------------------------------------------------------


@pytest.fixture
def nightly(server: Double, call: Call) -> str:
    """A recurring run; its id."""
    assert call("schedule", "0 0 3 * * *", "--preset", "tiny", "--store", STORE, "--name", "nightly")[0] == 0
    return next(iter(server.recurring))


def test_a_schedule_is_not_deleted_while_a_run_of_it_is_going(server: Double, call: Call, nightly: str) -> None:
    """On the real thing the Workflow belongs to the ScheduledWorkflow and goes with it, pods and all.

    Kubeflow 2.17.0, backend/src/crd/controller/scheduledworkflow/util/scheduled_workflow.go, OwnerReferences.
    """
    run = server.fire(nightly, GOING)
    code, said = call("schedules", "delete", "nightly")
    assert (code, run.run_id in said, "--now" in said) == (2, True, True)
    assert server.recurring[nightly].status == "DISABLED", "it starts nothing more"
    assert server.killed == []
    run.state = "SUCCEEDED"
    assert call("schedules", "delete", "nightly")[0] == 0
    assert (server.recurring, server.killed) == ({}, [])


@pytest.mark.parametrize("state", ["RUNNING", "CANCELING"])
def test_a_schedule_is_deleted_though_kubeflow_shows_a_run_of_it_whose_workflow_is_gone(
    server: Double, call: Call, nightly: str, state: str
) -> None:
    """Such a run is shown as going on for ever, so that nobody could delete the schedule but with --now."""
    run = server.fire(nightly, Frame(state, GOING.nodes))
    server.gone.add(run.run_id)
    assert call("schedules", "delete", "nightly")[0] == 0
    assert server.recurring == {}


def test_a_run_that_starts_between_looking_and_deleting_is_left_alone(
    server: Double, call: Call, nightly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fire(nightly, GOING)
    monkeypatch.setattr(Server, "runs_going_of", lambda self, schedule: [])
    assert call("schedules", "delete", "nightly")[0] == 0
    assert server.killed == []


def test_now_deletes_the_schedule_and_its_run_which_is_told_as_gone(
    server: Double, call: Call, nightly: str, tmp_path: Path
) -> None:
    """Kubeflow shows such a run as running for ever."""
    run = server.fire(nightly, GOING)
    assert "running" in call("runs")[1]
    assert call("schedules", "delete", "nightly", "--now")[0] == 0
    assert server.killed == ["nightly-1"]
    said = call("runs")[1]
    assert ("gone" in said, "running" in said) == (True, False)
    assert (tmp_path / "runs" / run.run_id / "summary.md").read_text().startswith("# Cancelled")


def test_a_run_whose_schedule_left_it_alone_goes_on(server: Double, call: Call, nightly: str) -> None:
    server.fire(nightly, GOING)
    del server.recurring[nightly]
    assert "running" in call("runs")[1]


def test_a_run_that_is_gone_does_not_keep_an_equal_one_from_starting(server: Double, submit: Call) -> None:
    server.endings = [GOING, GOING]
    submit("--if-changed")
    server.show("run-0")
    assert "unchanged since run run-0 (running)" in submit("--if-changed")[1]
    server.gone.add("run-0")
    submit("--if-changed")
    assert len(server.runs) == 2


def test_runs_of_other_pipelines_are_shown_as_kubeflow_has_them(server: Double, call: Call, nightly: str) -> None:
    run = server.fire(nightly, Frame("FAILED", {}, history=("CANCELING",)))
    run.pipeline_version_reference.pipeline_id = "somebody-elses"
    said = call("runs")[1]
    assert ("failed" in said, "summary.md" in said) == (True, False)


def test_the_change_that_the_docs_ask_for_is_the_one_that_doctor_looks_for() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    (block,) = [part for part in page.split("```") if "retryPolicy: Always" in part]
    assert retry_policy({"workflowDefaults": block}) == WANTED
