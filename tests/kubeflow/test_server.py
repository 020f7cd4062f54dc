"""How the API server is found and asked: namespaces of users, pods of the cluster, images, plugins.

The double (api_double.py) names the release and the files of Kubeflow that it behaves like.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from typer.testing import CliRunner

from lorapar import __version__
from lorapar.cli import app
from lorapar.cli.kubeflow import cluster_of
from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow import waiting
from lorapar.kubeflow.checks import plugins_input
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.server import Server, Where
from lorapar.kubeflow.submission import RunStore
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
    message = call("schedules", "list", "--namespace", "bob")[1]
    assert ("bob" in message, "alice" in message) == (True, False)


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
    ("host", "message"),
    [("http://127.0.0.1:9", "connection refused"), ("http://nowhere.invalid", "its name is not known here")],
)
def test_why_kubeflow_did_not_answer_is_reported_in_words(host: str, message: str) -> None:
    with pytest.raises(UnreachableError, match=rf"Kubeflow did not answer \({message}\); check --host"):
        Server(Where(host))


def test_an_address_whose_api_is_elsewhere_is_no_kubeflow(server: Double) -> None:
    server.prefix = "/pipeline"
    with pytest.raises(UnreachableError, match=r"is not the API of Kubeflow Pipelines 2; check --host .*/pipeline"):
        Server(Where(server.address))


def test_who_names_no_address_outside_a_cluster_is_reminded_of_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    with pytest.raises(UnreachableError, match="neither --host nor KF_PIPELINES_ENDPOINT is set"):
        Server(Where())


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a network that drops packets: kfp itself would wait for ever."""
    monkeypatch.setattr("lorapar.kubeflow.server.ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.3)
        with pytest.raises(UnreachableError, match=r"Kubeflow did not answer \(no answer in time\)"):
            Server(Where(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):  # urllib3 would ask three times more: eight minutes without a word
            silent.accept()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has half a second for an answer, and it is said after 50 ms that there is none."""
    monkeypatch.setattr("lorapar.kubeflow.server.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("lorapar.kubeflow.waiting.FIRST_SECONDS", 0.05)
    monkeypatch.setattr("lorapar.kubeflow.waiting.EVERY_SECONDS", 0.1)


TINY = ("--preset", "tiny", "--store", STORE)


@pytest.mark.usefixtures("impatient", "server")
@pytest.mark.parametrize(
    "command",
    [
        ("submit", *TINY),
        ("submit", *TINY, "--wait", "--if-changed"),
        ("runs",),
        ("schedule", "@daily", *TINY),
        ("schedules", "list"),
        ("schedules", "delete", "nightly"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_every_command_says_that_kubeflow_has_not_answered_yet(command: tuple[str, ...], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(app, [*command, "--host", address])
    lines = result.stderr.splitlines()
    assert lines[0] == f"lorapar: {address}: no answer for 0 s; given up after 0 s", result.output
    assert len(lines) > 1, "it goes on saying so"


@pytest.mark.usefixtures("impatient")
def test_a_study_in_kubeflow_says_it_too(server: Double, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError):
            cluster_of("mine", address, None, None, None, None)
    assert f"lorapar: {address}: no answer for" in capsys.readouterr().err


def test_a_server_that_answers_in_time_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert max(waiting.FIRST_SECONDS, waiting.EVERY_SECONDS) <= 30
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 60)
    with waiting.Waiting("http://localhost:8888") as waited:
        pass
    waited.speaker.join(30)
    assert not waited.speaker.is_alive(), "what answers is waited for no longer"
    assert capsys.readouterr().err == ""


def test_a_store_that_does_not_answer_is_reported_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("lorapar.kubeflow.waiting.FIRST_SECONDS", 0.01)
    message = threading.Event()

    def hangs(address: str) -> None:
        message.wait(0.2)
        raise UnreachableError(f"{address}/runs/r-1/plan.json: refused")

    monkeypatch.setattr("lorapar.kubeflow.submission.open_store", hangs)
    kept = RunStore(STORE, "r-1")
    assert kept.ask(lambda ledger: 1) is None
    assert f"lorapar: {STORE}: still asked after 0 s\n" in capsys.readouterr().err
    assert kept.problem == f"{STORE}: refused", "a person has never seen plan.json"


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
    code, message = submit("--param", "theta=0.8")
    assert code == 0
    assert images(server) == {one.partition("=")[2] for one in PINNED}
    assert f"images as in version {__version__}-" in message
    assert f"trainer=registry.example/trainer{DIGEST}" in message
    assert "named by a tag" not in message
    assert len(server.versions) == 2, "the same package, so the same version"


def test_one_image_that_somebody_names_is_for_that_run_only(server: Double, call: Call, submit: Call) -> None:
    """The others are those that everybody gets, and nobody else gets it, in Kubeflow's form neither."""
    submit(*(f"--image={one}" for one in PINNED))
    mine = f"trainer=mine/trainer{DIGEST}"
    code, message = submit("--image", mine)
    assert (code, images(server)) == (0, {one.partition("=")[2] for one in (*PINNED[::2], mine)})
    assert f"images as named, for this run only: {mine}; the others as in version {__version__}-" in message
    everybodys, own = server.pipelines.values()
    assert (everybodys.display_name, own.display_name) == ("lorapar", "lorapar-own")
    assert [one.pipeline_id for one in server.versions.values()].count(everybodys.pipeline_id) == 2
    submit("--image", mine, "--no-cache")
    submit()
    assert images(server) == {one.partition("=")[2] for one in PINNED}
    submit("--image", PINNED[0])
    assert len(server.pipelines) == 2, "the image that everybody gets makes nothing new"
    *_, run = server.runs.values()
    assert run.pipeline_version_reference.pipeline_id == everybodys.pipeline_id


def test_who_goes_back_to_earlier_images_goes_back_for_everybody(server: Double, submit: Call) -> None:
    _, _, (_, third), _ = [submit("--registry", f"{one}/images") for one in ("first", "second", "first", "first")]
    names = [one.display_name for one in server.versions.values()]
    assert len(names) == 4, "the pipeline's own first one, and one for each change"
    assert names[3].startswith(f"{names[1]}-2")
    assert f"pipeline lorapar, version {names[3]}: uploaded" in third
    submit()
    assert images(server) == {f"first/images/{name}:{__version__}" for name in ("client", "trainer", "vllm")}
    assert len(server.versions) == 4


def test_one_image_before_anybody_has_uploaded_any_stands_beside_the_shipped_ones(
    server: Double, call: Call, submit: Call
) -> None:
    code, message = submit("--image", f"trainer=mine/trainer{DIGEST}")
    assert (code, f"; the others as shipped: client=lorapar/client:{__version__}, vllm=" in message) == (0, True), (
        message
    )
    code, message = submit()
    assert f"images as shipped: client=lorapar/client:{__version__}, trainer=lorapar/trainer:" in message
    assert images(server) == {f"lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}


def test_runs_and_schedules_with_an_image_of_ones_own_are_ours_all_the_same(server: Double, call: Call) -> None:
    image = ("--image", f"vllm=mine/vllm{DIGEST}")
    code, message = call("schedule", "@daily", "--preset", "tiny", "--store", STORE, "--name", "nightly", *image)
    assert (code, "for this schedule only: vllm=mine/vllm" in message) == (0, True), message
    (schedule,) = server.recurring
    assert "nightly" in call("schedules", "list")[1]
    server.fire(schedule, Frame("FAILED", {}, history=("CANCELING",)))
    assert "cancelled" in call("runs")[1]
    assert call("schedules", "delete", "nightly")[0] == 0


def test_a_run_without_the_cache_leaves_what_others_get_as_it_was(server: Double, submit: Call) -> None:
    given = [f"--image={one}" for one in PINNED]
    assert "for this run only" in submit(*given, "--no-cache")[1]
    assert [one.display_name for one in server.pipelines.values()] == ["lorapar-own"]
    assert "images as shipped" in submit()[1]


def test_a_mix_with_a_shipped_tag_that_an_earlier_build_uploaded_is_not_taken(server: Double, submit: Call) -> None:
    submit(*(f"--image={one}" for one in PINNED))
    submit("--image", f"trainer=mine/trainer{DIGEST}")
    for version in server.versions.values():
        version.pipeline_id = "pipeline-0"
    for executor in server.versions["version-3"].pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values():
        image = executor["container"]["image"]
        executor["container"]["image"] = f"lorapar/vllm:{__version__}" if "vllm" in image else image
    submit()
    assert images(server) == {one.partition("=")[2] for one in PINNED}


def test_a_version_with_the_shipped_tags_or_of_another_lorapar_names_no_images(server: Double, submit: Call) -> None:
    submit("--registry", "old/images")
    for version in server.versions.values():
        version.display_name = version.display_name.replace(__version__, "0.0.9")
    code, message = submit()
    assert code == 0
    assert images(server) == {f"lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}
    assert "images as in" not in message
    submit("--registry", "new/images")
    submit("--registry", "mirror.example/lorapar")
    assert images(server) == {f"mirror.example/lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}


def test_pinned_images_of_the_uploaded_version_are_digests_too(server: Double, submit: Call) -> None:
    code, message = submit("--require-digests")
    assert (code, "--require-digests: lorapar/client" in message, server.runs) == (2, True, {})
    pinned = [f"--image={name}=r.example/{name}{DIGEST}" for name in ("client", "trainer", "vllm")]
    assert submit("--require-digests", *pinned)[0] == 0
    assert submit("--require-digests")[0] == 0
    assert images(server) == {f"r.example/{name}{DIGEST}" for name in ("client", "trainer", "vllm")}
    submit(*pinned[:2], "--image=vllm=r.example/vllm:1")
    code, message = submit("--require-digests")
    assert (code, "--require-digests: r.example/vllm:1 is not pinned" in message) == (2, True), "the newest counts"


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
    ("plugins", "message"),
    [
        ("{mlflow: {experiment: x}}", "did you mean 'experiment_"),
        ("{mlflow: {disabled: maybe}}", "mlflow.disabled: expected true or false"),
        ("{mlflow: {experiment_id: true}}", "mlflow.experiment_id: expected a text"),
        ("{MLflow: {}}", "plugins"),
        ("[mlflow]", "plugins"),
    ],
)
def test_wrong_plugins_in_a_placement_file_are_one_line(
    submit: Call, tmp_path: Path, plugins: str, message: str
) -> None:
    file = tmp_path / "placement.yaml"
    file.write_text(f"plugins: {plugins}\n")
    code, words = submit("--placement", str(file))
    assert (code, words.startswith("--placement"), message in words) == (2, True, True), words


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["mlflow"], "write it as PLUGIN.KEY=VALUE"),
        (["mlflow.experiment=x"], "did you mean 'experiment_"),
        (["mlflow.disabled=maybe"], "expected true or false"),
        (["mlflow.experiment_id=1", "mlflow.experiment_id=2"], "is given twice"),
    ],
)
def test_a_wrong_plugin_input_is_one_line(given: list[str], message: str) -> None:
    with pytest.raises(BadInputError, match=r"^--plugins mlflow") as wrong:
        plugins_input(given)
    assert message in str(wrong.value)
