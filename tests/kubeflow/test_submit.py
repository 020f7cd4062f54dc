"""`lorapar submit`, `runs` and `schedule` against a server that checks every message with kfp-server-api's types."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.config import load_config
from lorapar.errors import BadInputError, Terminated, UnreachableError
from lorapar.kubeflow import follow, submission
from lorapar.kubeflow.checks import check_server
from lorapar.kubeflow.parameters import run_config
from lorapar.stages.plan import resolve_config
from lorapar.store import open_store
from tests.kubeflow.api_double import Frame, NotThereError
from tests.kubeflow.argo_double import Fate
from tests.kubeflow.conftest import STORE

PROMOTED = Frame(
    "SUCCEEDED", {"plan": "SUCCEEDED", "report": Fate(log='lorapar outcome: {"better": true, "promoted": true}')}
)
FAILED = Frame("FAILED", {"plan": "SUCCEEDED", "sft": "FAILED"})


def test_a_new_version_is_uploaded_once_and_runs_get_the_settings(server, call, submit, tmp_path) -> None:
    assert submit("--param", "theta=0.8", "--service-account", "trainer")[0] == 0
    assert submit()[0] == 0
    assert len(server.pipelines) == 1
    # The first upload makes a version too, named after the pipeline; then one for our content, and none again.
    assert [one.display_name.split("-")[0] for one in server.versions.values()][1:] == ["0.1.0"]
    first, second = server.runs.values()
    assert first.runtime_config.parameters["theta"] == "0.8"
    assert first.runtime_config.parameters["store"] == STORE
    address = first.runtime_config.parameters["config"]
    assert "name: tiny" in (tmp_path / address.removeprefix(f"{STORE}/")).read_text()
    assert first.service_account == "trainer"
    assert "theta" not in second.runtime_config.parameters
    assert set(server.tokens) == {"Bearer t0ken"}


def test_settings_travel_as_they_are_where_they_are_short_or_the_store_does_not_take_them(
    server, call, submit, monkeypatch, tmp_path
) -> None:
    (tmp_path / "short.yaml").write_text("name: short\n")
    assert "settings" not in call("submit", "--config", str(tmp_path / "short.yaml"), "--store", STORE)[1]
    answers = threading.Event()

    def refused(address: str) -> None:
        raise UnreachableError(f"{address}: access denied")

    monkeypatch.setattr(submission, "open_store", refused)
    assert "the settings could not be put into the store (s3://bucket/lorapar: access denied)" in submit()[1]
    monkeypatch.setattr(submission, "INLINE_LIMIT_BYTES", 500)
    assert "Kubeflow's page of the run will not change" in submit()[1]
    monkeypatch.setattr(submission, "open_store", lambda address: answers.wait(60) and open_store(tmp_path))
    monkeypatch.setattr(submission, "STORE_SECONDS", 0.1)
    assert "has not answered yet" in submit()[1]
    answers.set()
    short, unwritten, _, silent = (run.runtime_config.parameters["config"] for run in server.runs.values())
    assert short.startswith("name: short")
    assert unwritten == silent
    assert "name: tiny" in silent


def test_plan_reads_what_submit_has_put_into_the_store(server, submit, monkeypatch, tmp_path) -> None:
    submit("--param", "theta=0.8")
    (run,) = server.runs.values()
    values = run.runtime_config.parameters
    monkeypatch.setattr(
        "lorapar.store.open_store", lambda folder: open_store(tmp_path / folder.removeprefix(STORE)[1:])
    )
    planned = run_config(values)
    assert planned.partition.theta == 0.8
    assert planned.model_copy(update={"partition": None, "registry": None}) == load_config(preset="tiny").model_copy(
        update={"partition": None, "registry": None}
    )


def test_images_and_caching_make_another_version(server, call, submit) -> None:
    digest = "sha256:" + "a" * 64
    submit()
    submit("--image", f"trainer=registry.example/trainer@{digest}")
    submit("--no-cache")
    assert len({one.display_name for one in server.versions.values()}) == 5, "with the two pipelines' first ones"
    specs = [package["spec"] for package in server.packages.values()]
    images = {one["container"]["image"] for one in specs[3]["deploymentSpec"]["executors"].values()}
    assert f"registry.example/trainer@{digest}" in images


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_stopped_while_following_it_says_that_the_run_goes_on(server, call, submit, monkeypatch, stop, code) -> None:
    def stopping(_seconds: float) -> None:
        raise stop

    monkeypatch.setattr(follow.time, "sleep", stopping)
    ended, message = submit("--wait")
    assert ended == code
    assert "run run-0; the run goes on in Kubeflow" in message
    assert "run the same command again to continue" not in message


def test_a_failed_run_is_started_again_as_often_as_asked(server, call, submit) -> None:
    server.endings = [FAILED, FAILED, PROMOTED]
    assert submit("--wait", "--resubmit", "2")[0] == 0
    assert len(server.runs) == 3
    server.endings = [FAILED, FAILED]
    assert submit("--wait", "--resubmit", "1")[0] == 12


def test_nothing_starts_where_nothing_has_changed(server, call, submit) -> None:
    server.endings = [Frame("FAILED"), Frame("SUCCEEDED"), Frame("SUCCEEDED")]
    submit("--if-changed")
    submit("--if-changed")
    assert len(server.runs) == 2, "the first failed, so an equal one starts"
    code, message = submit("--if-changed")
    assert (code, len(server.runs)) == (0, 2)
    assert "unchanged since run run-1" in message
    submit("--if-changed", "--set", "rl.max_steps=3")
    assert len(server.runs) == 3


def test_changed_rows_at_the_same_address_count_as_changed(tmp_path) -> None:
    rows, marks = tmp_path / "rows.jsonl", []
    for answer in ("old", "old", "new"):
        lines = [{"question": f"Why {n}?", "answer": answer} for n in range(9)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        config = load_config(preset="tiny", overrides=[f"data.source={rows}"])
        marks.append(submission.fingerprint("1", {"theta": "0.9"}, resolve_config(config, ("model", "data"))))
    assert marks[0] == marks[1] != marks[2]


def test_runs_lists_the_newest_first(server, call, submit) -> None:
    server.endings = [PROMOTED, FAILED]
    submit("--name", "one")
    submit("--name", "two")
    code, message = call("runs")
    assert code == 0
    assert message.index("two") < message.index("one")
    assert "failed" in message
    listed = json.loads(call("runs", "--json")[1])
    assert [(run["name"], run["state"]) for run in listed["runs"]] == [("two", "failed"), ("one", "succeeded")]


@pytest.mark.parametrize(
    ("state", "word"),
    [("RUNTIME_STATE_UNSPECIFIED", "pending"), ("CANCELING", "cancelling"), ("CANCELED", "cancelled")],
)
def test_states_of_runs_are_words_for_people(server, call, submit, state, word) -> None:
    server.endings = [Frame(state, {"plan": "SUCCEEDED"})]
    submit()
    assert [run["state"] for run in json.loads(call("runs", "--json")[1])["runs"]] == [word]


def test_a_server_that_stays_away_while_a_run_is_followed_leaves_the_run_to_itself(server, submit, monkeypatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.0)

    def gone(run: str) -> None:
        raise PermissionError

    monkeypatch.setattr(server, "show", gone)
    code, message = submit("--wait")
    assert (code, "run run-0 is not followed any more: the run goes on in Kubeflow" in message) == (3, True), message


def test_schedule_makes_a_recurring_run(server, call, submit, tmp_path) -> None:
    code, message = call("schedule", "0 0 3 * * *", "--preset", "tiny", "--store", STORE)
    assert code == 0, message
    (made,) = server.recurring.values()
    assert made.trigger.cron_schedule.cron == "0 0 3 * * *"
    assert made.no_catchup is True
    address = made.runtime_config.parameters["config"]
    assert "name: tiny" in (tmp_path / address.removeprefix(f"{STORE}/")).read_text()
    assert call("schedule", "0 3 * * *", "--preset", "tiny")[0] == 2
    code, message = call("schedule", "0 0 4 * * *", "--preset", "tiny", "--store", STORE)
    assert (code, len(server.recurring)) == (2, 1), "two of one name would train twice"
    assert "there is a recurring run of this name, " in message


def test_a_time_that_never_comes_is_no_schedule(server, call, submit) -> None:
    code, message = call("schedule", "0 0 25 * * *", "--preset", "tiny", "--store", STORE)
    assert (code, len(server.recurring)) == (2, 0)
    assert "hour '25': expected 0 to 23" in message


def test_a_model_below_the_volume_that_pods_mount_is_no_local_one(server, call, submit, tmp_path) -> None:
    model = ["--set", "model.name=/models/mine"]
    assert submit(*model)[0] == 2
    placement = tmp_path / "placement.yaml"
    placement.write_text("groups: {others: {models: {claim: shared}}}")
    assert submit(*model, "--placement", str(placement))[0] == 0


def schedule(call, name: str) -> None:
    assert call("schedule", "0 0 3 * * *", "--preset", "tiny", "--store", STORE, "--name", name)[0] == 0


def test_schedules_of_the_pipeline_are_listed_over_all_pages(server, call, submit, monkeypatch) -> None:
    assert "no schedules" in call("schedules", "list")[1]
    assert json.loads(call("schedules", "list", "--json")[1]) == {"schedules": []}
    monkeypatch.setattr("lorapar.kubeflow.server._PAGE", 2)
    for name in ("first", "second", "third", "fourth", "fifth"):
        schedule(call, name)
    *_, foreign = server.recurring.values()
    foreign.pipeline_version_reference.pipeline_id = "somebody-elses"
    code, message = call("schedules", "list")
    assert code == 0
    assert [line.split()[1] for line in message.splitlines()[1:]] == ["fourth", "third", "second", "first"]
    assert message.count("0 0 3 * * *") == message.count("enabled") == 4
    listed = json.loads(call("schedules", "list", "--json")[1])["schedules"]
    assert (listed[0]["name"], listed[0]["when"], listed[0]["state"]) == ("fourth", "0 0 3 * * *", "enabled")


def test_a_schedule_is_deleted_by_id_or_by_name(server, call, submit) -> None:
    for name in ("nightly", "weekly", "monthly"):
        schedule(call, name)
    list(server.recurring.values())[-1].display_name = "weekly"  # as Kubeflow's page lets people name it
    assert call("schedules", "delete", "nightly")[0] == 0
    assert [one.display_name for one in server.recurring.values()] == ["weekly", "weekly"]
    kept, gone = server.recurring
    code, message = call("schedules", "delete", "weekly")
    assert (code, len(server.recurring)) == (2, 2)
    assert kept in message
    assert gone in message
    assert call("schedules", "delete", gone)[0] == 0
    assert list(server.recurring) == [kept]
    assert call("schedules", "delete", "weekli") == (
        2,
        "SCHEDULE weekli: no such schedule (did you mean 'weekly'?); see `lorapar schedules list`",
    )


def test_the_schedule_of_another_pipeline_is_not_ours_to_delete(server, call, submit) -> None:
    schedule(call, "nightly")
    (foreign,) = server.recurring.values()
    foreign.pipeline_version_reference.pipeline_id = "somebody-elses"
    assert call("schedules", "delete", "nightly")[0] == 2
    assert len(server.recurring) == 1


def test_looking_for_runs_of_an_unknown_experiment_makes_none(server, call, submit) -> None:
    code, message = call("runs", "--experiment", "typo")
    assert code == 0
    assert "no runs in an experiment called 'typo'" in message
    assert not server.experiments


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 3), (500, 3), (409, 2)])
def test_a_server_that_refuses_is_one_line(server, call, submit, status, code) -> None:
    server.refuse = status
    result = submit()
    assert result[0] == code
    assert "not allowed" in result[1]
    assert "t0ken" not in result[1]


def test_a_server_that_is_not_there_is_one_line(server) -> None:
    server.stop()
    arguments = ["submit", "--preset", "tiny", "--store", STORE, "--host", server.address]
    result = CliRunner().invoke(app, arguments)
    assert int(result.exception.exit_code) == 3
    assert "did not answer" in str(result.exception)


WRONG = [
    (["--param", "theta=2"], "theta"),
    (["--param", "thet=0.5"], "did you mean 'theta'"),
    (["--param", "parallelism=many"], "parallelism"),
    (["--param", "parallelism=0"], "parallelism: expected a whole number of 1 or more"),
    (["--param", "webhook=notaurl"], "webhook: expected an address"),
    (["--param", "config=preset:foo"], "--param config: here the settings come from --preset NAME or --config FILE"),
    (["--set", "report.trackers=[mlflow]"], "report.trackers: shows runs on one machine; for MLflow leave it out"),
    (["--set", "data.source=/local/file.jsonl"], "data.source: /local/file.jsonl is on this machine"),
    (
        ["--set", "data.sources=[{source: hub:a/b}, {source: b.csv}]"],
        "data.sources[1].source: b.csv is on this machine",
    ),
    (["--param", "dataset=rows.jsonl"], "data.source: rows.jsonl is on this machine"),
    (["--set", "model.name=/local/model"], "model.name: /local/model is on this machine"),
    (["--set", "model.adapter=./runs/mine/adapter"], "model.adapter: ./runs/mine/adapter is on this machine"),
    (["--store", "/local/x"], "store: /local/x is a folder"),
    (["--param", "registry=adapters"], "registry.address: adapters is a folder"),
    (["--host", "nonsense"], "--host nonsense: expected an address"),
    (["--namespace", "Bad_NS"], "--namespace Bad_NS: names of namespaces"),
    (["--service-account", "Foo Bar"], "--service-account Foo Bar: names of ServiceAccounts"),
    (["--store", "s3://No_Bucket/x"], "lorapar: store: s3://No_Bucket/x: 'No_Bucket' cannot name a bucket"),
    (["--param", "theta=0.5", "--param", "theta=0.9"], "--param theta: is given twice"),
    (["--set", "gate.measures=[system3]"], "gate.measures: 'system3' is not evaluated"),
    (["--set", "rl.max_stps=1"], "max_steps"),
    (["--image", "trainr=x:1"], "did you mean 'trainer'"),
    (["--image", "trainer=NOT A NAME"], "trainer=REGISTRY"),
    (["--require-digests", "--image", "trainer=r.example/trainer:1"], "is not pinned"),
    (["--resubmit", "1"], "--wait"),
    (["--wiat"], "did you mean '--wait'"),
]
# A wrong value is answered in under half a second; what takes time is imported by those who need it.
LATE = {"kfp", "kfp_server_api", "kubernetes", "torch", "boto3", "botocore", "urllib3", "rich", "asyncio"}


def test_an_endpoint_of_the_environment_is_checked_where_no_host_is_given(monkeypatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "nonsense")
    with pytest.raises(BadInputError, match=r"^KF_PIPELINES_ENDPOINT nonsense: expected an address"):
        check_server(None, None)
    check_server("http://localhost:8888", None)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "")
    check_server(None, None)


def test_bad_input_is_answered_before_anything_is_imported_that_takes_time() -> None:
    """All in one fresh process: what one of them imported would be seen after the next."""
    program = (
        "import json, sys\n"
        "from lorapar.__main__ import main\n"
        f"for options in {[options for options, _ in WRONG]!r}:\n"
        "    sys.argv = ['lorapar', 'submit', '--preset', 'tiny', *options]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        f"        print(json.dumps([int(end.code), sorted({LATE!r} & set(sys.modules))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[2, []]] * len(WRONG)
    lines = [line for line in done.stderr.splitlines() if line.startswith("lorapar")]
    assert len(lines) == len(WRONG), done.stderr
    for (options, message), line in zip(WRONG, lines, strict=True):
        assert message in line, options


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "--preset", "tiny", "--store", STORE),
        ("submit", "--preset", "tiny", "--store", STORE, "--image", "client=r.example/c@sha256:" + "0" * 64),
        ("runs",),
        ("schedules", "list"),
    ],
)
def test_a_login_page_or_dashboard_in_place_of_the_api_is_reported(server, call, command) -> None:
    """Both come with status 200; kfp makes empty lists and objects without a name of them."""
    server.web_page = "<!doctype html><title>Log in</title>"
    code, message = call(*command)
    assert code == 3
    assert "answered with a web page, so this is not Kubeflow's API" in message
    assert "KFP_TOKEN" in message


def test_a_run_is_not_gone_because_a_gateway_does_not_know_the_path_of_logs(server, submit, call, monkeypatch) -> None:
    server.endings = [Frame("RUNNING", {"plan": "SUCCEEDED", "sft": Fate("RUNNING", log="step 1\n")})]
    submit()

    def refused(run: str, pod: str) -> None:
        raise NotThereError(pod)

    monkeypatch.setattr(server, "_log", refused)
    assert "running" in call("runs")[1]


def test_what_several_nodes_cannot_train_is_refused_before_anything_is_sent(server, submit, tmp_path) -> None:
    path = tmp_path / "placement.yaml"
    path.write_text("groups: {sft: {nodes: 5}}", encoding="utf-8")
    code, message = submit("--placement", str(path))
    assert code == 2
    assert "cannot be divided evenly among 5 nodes; make gradient_accumulation a multiple of 5" in message
    assert not server.runs
