"""The hook Job, run for real: `lorapar compile` with what it is rendered with, then its script against Kubeflow's API.

The API is the double of tests/kubeflow, which checks every body by the types of kfp-server-api.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lorapar import __version__
from lorapar.cli import app
from tests.helm.chart import CHART, EVERYTHING, PROFILES, containers, environment, only, pod_spec, pods, render
from tests.helm.test_scripts import silent
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Fate

RECURRING = EVERYTHING["pipeline"]["recurring"]


@pytest.fixture
def kubeflow() -> Iterator[Double]:
    double = Double()
    yield double
    double.stop()


def compiled(values: dict[str, Any] | None, folder: Path, profile: str | None = None) -> list[dict[str, Any]]:
    """What the Job's first container writes; the ConfigMap's files lie in the folder too."""
    manifests = render(profile, values)
    for name, text in only(manifests, "ConfigMap", "-upload")["data"].items():
        (folder / name).write_text(text, encoding="utf-8")
    (container,) = pod_spec(only(manifests, "Job", "-upload"))["initContainers"]  # type: ignore[index]
    moved = [word.replace("/scratch", str(folder)).replace("/config", str(folder)) for word in container["args"]]
    done = CliRunner().invoke(app, [*container["command"][1:], *moved])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all((folder / "pipeline.yaml").read_text(encoding="utf-8")))


def upload(kubeflow: Double, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the Job's second container does."""
    command = [sys.executable, CHART / "files" / "upload_pipeline.py", kubeflow.address, folder / "pipeline.yaml"]
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        [*command, __version__, folder / "recurring.json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )


def recurring(kubeflow: Double) -> set[str]:
    return {str(run.display_name) for run in kubeflow.recurring.values()}


def with_runs(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"pipeline": {"recurring": list(runs)}}


def test_the_package_has_the_release_s_images_and_placement(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    values = {**EVERYTHING, "images": {"registry": "mirror.internal", "trainer": {"digest": digest}}}
    spec, platform = compiled(values, tmp_path)
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {
        f"mirror.internal/lorapar/client:{__version__}",
        f"mirror.internal/lorapar/trainer@{digest}",
        f"mirror.internal/lorapar/vllm:{__version__}",
    }
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    sft = next(pods[label] for label in pods if label.startswith("exec-sft"))
    assert sft["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lorapar"
    assert sft["pvcMount"][0]["constant"] == "base-models"
    assert {secret["secretName"] for secret in sft["secretAsVolume"]} == {"s3-keys"}
    assert sft["imagePullPolicy"] == "IfNotPresent"


def test_a_group_that_the_chart_makes_starts_from_the_user_s_others(tmp_path: Path) -> None:
    spec, _ = compiled(EVERYTHING, tmp_path)
    executors = spec["deploymentSpec"]["executors"]
    vote = next(executors[label] for label in executors if label.startswith("exec-vote"))
    assert vote["container"]["resources"]["resourceCpuLimit"] == "2"


TRAINING = {"score": 1, "sft": 1, "rl": 1, "evaluate": 1}
# Which tasks of a run hold how many accelerators, and how many `plan` gives a vote task whose teachers run on vLLM.
ACCELERATORS: dict[str | None, tuple[dict[str, int], str]] = {
    None: (TRAINING, "1"),
    "kind": ({}, "0"),
    "kubeflow-store": (TRAINING, "1"),
    "production": (TRAINING, "1"),
    "single-gpu": (TRAINING, "1"),
}


def test_every_values_file_that_is_shipped_is_in_this_table() -> None:
    assert set(ACCELERATORS) == {None, *PROFILES}


@pytest.mark.parametrize("profile", ACCELERATORS)
def test_every_values_file_compiles_and_these_tasks_ask_for_an_accelerator(profile: str | None, tmp_path: Path) -> None:
    """A pod that asks for what no node has stays Pending for ever, and Kubeflow says nothing about it."""
    spec, _ = compiled(None, tmp_path, profile)
    asked = {}
    for label, executor in spec["deploymentSpec"]["executors"].items():
        count = executor["container"].get("resources", {}).get("accelerator", {}).get("resourceCount", "0")
        if count.isdigit() and count != "0":
            asked[re.sub(r"-\d+$", "", label.removeprefix("exec-"))] = int(count)
    message = {
        task["inputs"]["parameters"]["vote_accelerators"]["runtimeValue"]["constant"]
        for component in [spec["root"], *spec["components"].values()]
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "runtimeValue" in task.get("inputs", {}).get("parameters", {}).get("vote_accelerators", {})
    }
    assert asked == ACCELERATORS[profile][0]
    assert message == {ACCELERATORS[profile][1]}


def test_no_pod_of_the_chart_on_kind_asks_for_an_accelerator() -> None:
    for name, spec in pods(render("kind")):
        for container in containers(spec):
            assert not [key for key in container["resources"].get("limits", {}) if "/" in key], name


def test_first_upload_makes_the_pipeline_and_an_equal_one_makes_nothing(kubeflow: Double, tmp_path: Path) -> None:
    compiled({}, tmp_path)
    first, second = upload(kubeflow, tmp_path), upload(kubeflow, tmp_path)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "uploaded" in first.stdout
    assert "is there already" in second.stdout
    names = {str(version.display_name) for version in kubeflow.versions.values()}
    assert len(kubeflow.pipelines) == 1
    assert len([name for name in names if name.startswith(f"{__version__}-")]) == 1


def test_a_changed_package_is_a_new_version_of_the_same_pipeline(kubeflow: Double, tmp_path: Path) -> None:
    compiled({}, tmp_path)
    upload(kubeflow, tmp_path)
    compiled({"images": {"registry": "mirror.internal"}}, tmp_path)
    assert "uploaded" in upload(kubeflow, tmp_path).stdout
    assert len(kubeflow.pipelines) == 1
    assert len([v for v in kubeflow.versions.values() if str(v.display_name).startswith(f"{__version__}-")]) == 2


def test_after_a_rollback_the_release_s_images_are_the_newest_again(kubeflow: Double, tmp_path: Path) -> None:
    """Who submits without naming images gets those of the newest version."""
    for registry, message in [("one.example", "uploaded"), ("two.example", "uploaded"), ("one.example", "uploaded")]:
        compiled({"images": {"registry": registry}}, tmp_path)
        assert message in upload(kubeflow, tmp_path).stdout
    assert "is there already" in upload(kubeflow, tmp_path).stdout
    *_, newest = kubeflow.versions.values()
    assert "one.example" in json.dumps(newest.pipeline_spec)
    assert re.fullmatch(rf"{re.escape(__version__)}-\w{{12}}-\d{{14}}", newest.display_name)


def test_submit_finds_the_version_that_the_job_uploaded(kubeflow: Double, tmp_path: Path) -> None:
    """Both name it by the same digest, so neither uploads what the other has."""
    from lorapar.kubeflow.package import build_package
    from lorapar.kubeflow.placement import read_placement
    from lorapar.kubeflow.tasks import references

    compiled({}, tmp_path)
    upload(kubeflow, tmp_path)
    images = [f"{name}=ghcr.io/lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")]
    package = build_package(references(None, images), read_placement(tmp_path / "placement.yaml"))
    assert package.version_name in {version.display_name for version in kubeflow.versions.values()}


def test_recurring_runs_are_made_kept_changed_and_deleted(kubeflow: Double, tmp_path: Path) -> None:
    nightly = {"name": "nightly", "cron": "0 0 3 * * *", "config": {"model": {"name": "builtin:tiny"}}}
    weekly = {"name": "weekly", "cron": "0 0 3 * * 1", "config": {}}
    kubeflow.recurring["foreign"] = kubeflow_run("nightly", "somebody's own")
    compiled(with_runs(nightly, weekly), tmp_path)
    assert upload(kubeflow, tmp_path).returncode == 0
    assert recurring(kubeflow) == {"nightly", "weekly"}
    before = set(kubeflow.recurring)
    assert upload(kubeflow, tmp_path).returncode == 0
    assert set(kubeflow.recurring) == before, "unchanged ones are left alone"
    compiled(with_runs({**nightly, "cron": "0 0 4 * * *"}), tmp_path)
    done = upload(kubeflow, tmp_path)
    assert done.returncode == 0, done.stderr
    own = [run for key, run in kubeflow.recurring.items() if key != "foreign"]
    assert [run.trigger.cron_schedule.cron for run in own] == ["0 0 4 * * *"]
    compiled({}, tmp_path)
    assert upload(kubeflow, tmp_path).returncode == 0
    assert set(kubeflow.recurring) == {"foreign"}, "what others made is never touched"


def kubeflow_run(name: str, description: str) -> Any:
    import kfp_server_api as api

    return api.V2beta1RecurringRun(recurring_run_id="foreign", display_name=name, description=description)


def test_a_recurring_run_carries_store_account_and_settings_that_are_valid(kubeflow: Double, tmp_path: Path) -> None:
    from lorapar.kubeflow.parameters import run_config

    compiled(EVERYTHING, tmp_path)
    assert upload(kubeflow, tmp_path).returncode == 0
    (run,) = kubeflow.recurring.values()
    assert run.service_account == "lorapar-runner"
    assert run.runtime_config.parameters["store"] == "s3://lorapar"
    assert run_config(run.runtime_config.parameters).model.name == "builtin:tiny"
    known = kubeflow.packages[run.pipeline_version_reference.pipeline_version_id]["spec"]["root"]["inputDefinitions"]
    assert set(run.runtime_config.parameters) <= set(known["parameters"])


def test_the_namespace_s_token_goes_with_every_call(kubeflow: Double, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-token", encoding="utf-8")
    compiled(EVERYTHING, tmp_path)
    done = upload(kubeflow, tmp_path, KF_PIPELINES_SA_TOKEN_PATH=str(tmp_path / "token"), NAMESPACE="ml")
    assert done.returncode == 0, done.stderr
    assert set(kubeflow.tokens) == {"Bearer the-token"}
    (experiment,) = kubeflow.experiments.values()
    assert experiment.namespace == "ml"


def test_a_refused_call_fails_in_one_line(kubeflow: Double, tmp_path: Path) -> None:
    compiled({}, tmp_path)
    kubeflow.refuse = 403
    done = upload(kubeflow, tmp_path)
    assert done.returncode == 1
    assert "403" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_wrong_placement_ends_installing_with_its_key() -> None:
    from tests.helm.chart import template

    done = template(values={"pipeline": {"placement": {"groups": {"sft": {"gpus": 1}}}}})
    assert done.code != 0
    assert "gpus" in done.error
    done = template(values={"pipeline": {"placement": {"groups": {"slt": {"count": 1}}}}})
    assert done.code != 0, "a stage that lorapar does not have"
    assert "slt" in done.error
    done = template(values={"pipeline": {"placement": {"groups": {"prepare": {"cpu": "1"}}}}})
    assert done.code != 0, "a stage that runs in another one's task"
    assert "prepare" in done.error


def test_the_configmap_holds_no_run_s_secret(tmp_path: Path) -> None:
    data = json.dumps(only(render(values=EVERYTHING), "ConfigMap", "-upload")["data"])
    assert "SECRET" not in data


# --- runs that are going on ------------------------------------------------------------------------------------------


def started(kubeflow: Double, recurring_run: str, state: str, name: str = "nightly 7") -> Any:
    """A run that a recurring run has started."""
    import kfp_server_api as api

    run = api.V2beta1Run(
        run_id=f"run-{len(kubeflow.runs)}",
        display_name=name,
        recurring_run_id=recurring_run,
        state=state,
        created_at=datetime.now(UTC),
    )
    kubeflow.runs[run.run_id] = run
    return run


NIGHTLY = {"name": "nightly", "cron": "0 0 3 * * *", "config": {"model": {"name": "builtin:tiny"}}}


@pytest.mark.parametrize("next_values", [with_runs({**NIGHTLY, "cron": "0 0 4 * * *"}), {}], ids=["changed", "removed"])
def test_a_run_that_goes_on_is_not_killed_and_its_schedule_goes_at_the_next_upgrade(
    next_values: dict[str, Any], kubeflow: Double, tmp_path: Path
) -> None:
    compiled(with_runs(NIGHTLY), tmp_path)
    assert upload(kubeflow, tmp_path).returncode == 0
    (old,) = kubeflow.recurring
    run = started(kubeflow, old, "RUNNING")
    started(kubeflow, "of somebody else", "RUNNING")
    compiled(next_values, tmp_path)
    first = upload(kubeflow, tmp_path)
    assert first.returncode == 0, first.stderr
    assert kubeflow.recurring[old].status == "DISABLED", "it starts no further run"
    assert "recurring run nightly: switched off; its run 'nightly 7' goes on" in first.stdout
    run.state = "SUCCEEDED"
    second = upload(kubeflow, tmp_path)
    assert second.returncode == 0, second.stderr
    assert old not in kubeflow.recurring
    assert len(kubeflow.recurring) == len(next_values and next_values["pipeline"]["recurring"])
    assert kubeflow.killed == []


@pytest.mark.parametrize("state", ["RUNNING", "CANCELING", "PENDING"])
@pytest.mark.parametrize(
    ("left", "deleted"),
    [("nothing", True), ("nothing, told with status 500", True), ("a pod", False), ("no word of its workflow", False)],
)
def test_a_schedule_whose_run_has_lost_its_workflow_is_removed(
    state: str, left: str, deleted: bool, kubeflow: Double, tmp_path: Path
) -> None:
    """Kubeflow shows such a run as running for ever, so no later upgrade would find it ended."""
    compiled(with_runs(NIGHTLY), tmp_path)
    upload(kubeflow, tmp_path)
    (nightly,) = kubeflow.recurring
    run = kubeflow.fire(nightly, Frame(state, {"plan": "SUCCEEDED", "init": Fate("RUNNING", log="layer 1")}))
    if left.startswith("nothing"):
        kubeflow.gone.add(run.run_id)
    kubeflow.says_500_for_logs = left.endswith("500")
    kubeflow.hands_out_workflows = left != "no word of its workflow"
    compiled({}, tmp_path)
    done = upload(kubeflow, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (kubeflow.recurring == {}) is deleted, done.stdout
    assert kubeflow.killed == [], "it is deleted so that a run which has begun since goes on"


def test_plugins_of_the_placement_reach_the_recurring_runs(kubeflow: Double, tmp_path: Path) -> None:
    values = with_runs(NIGHTLY)
    values["pipeline"]["placement"] = {"plugins": {"mlflow": {"experiment_name": "nlp"}}}
    compiled(values, tmp_path)
    assert upload(kubeflow, tmp_path).returncode == 0
    (made,) = kubeflow.recurring.values()
    assert made.plugins_input == {"mlflow": {"experiment_name": "nlp"}}


def test_a_schedule_that_was_switched_off_and_is_wanted_again_is_made_anew(kubeflow: Double, tmp_path: Path) -> None:
    compiled(with_runs(NIGHTLY), tmp_path)
    upload(kubeflow, tmp_path)
    (old,) = kubeflow.recurring
    started(kubeflow, old, "PENDING")
    compiled({}, tmp_path)
    upload(kubeflow, tmp_path)
    compiled(with_runs(NIGHTLY), tmp_path)
    done = upload(kubeflow, tmp_path)
    assert done.returncode == 0, done.stderr
    statuses = {key: run.status for key, run in kubeflow.recurring.items()}
    assert statuses.pop(old) == "DISABLED"
    assert list(statuses.values()) == ["ENABLED"]
    assert kubeflow.killed == []


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"])
def test_a_schedule_whose_runs_have_ended_is_deleted_at_once(state: str, kubeflow: Double, tmp_path: Path) -> None:
    compiled(with_runs(NIGHTLY), tmp_path)
    upload(kubeflow, tmp_path)
    started(kubeflow, next(iter(kubeflow.recurring)), state)
    compiled({}, tmp_path)
    assert "deleted" in upload(kubeflow, tmp_path).stdout
    assert not kubeflow.recurring


def test_the_job_has_the_rights_that_a_multi_user_kubeflow_asks_for() -> None:
    """Verbs by backend/src/apiserver/common/const.go of Kubeflow 2.17.0; recurring runs are `jobs` there."""
    rules = only(render(values=EVERYTHING), "Role", "-upload")["rules"]
    verbs = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert {"create", "list", "disable", "delete"} <= verbs["jobs"]
    assert verbs["runs"] == {"get", "list", "readLog"}, "the last by releases that ask for it"


# --- a Kubeflow that does not answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [True, False], ids=["it comes", "it stays away"])
def test_the_job_says_whom_it_waits_for_and_goes_on_trying(answers: bool, tmp_path: Path) -> None:
    compiled({}, tmp_path)
    with silent() as address:
        command = [sys.executable, CHART / "files" / "upload_pipeline.py", address, tmp_path / "pipeline.yaml"]
        variables = {"PATH": os.environ["PATH"], "LORAPAR_WAIT_SECONDS": "120" if answers else "12"}
        job = subprocess.Popen([*command, __version__], stderr=subprocess.PIPE, text=True, env=variables)
        assert job.stderr is not None
        began, message = time.monotonic(), job.stderr.readline()
        assert time.monotonic() - began < 30
        assert message.startswith(f"{address}: no answer for ")
        if not answers:
            last = job.stderr.read().splitlines()[-1]
            assert job.wait(60) == 3
            assert "no answer in" in last
            assert "pipeline.kfp.endpoint" in last
            assert "NetworkPolicies" in last
            return
    double = Double(int(address.rpartition(":")[2]))
    try:
        assert job.wait(90) == 0, job.stderr.read()
        assert len(double.pipelines) == 1
    finally:
        job.stderr.close()
        double.stop()


def test_the_job_that_is_stopped_while_it_waits_says_what_to_look_at(tmp_path: Path) -> None:
    compiled({}, tmp_path)
    with silent() as address:
        command = [sys.executable, CHART / "files" / "upload_pipeline.py", address, tmp_path / "pipeline.yaml", "1"]
        job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]})
        assert job.stderr is not None
        job.stderr.readline()
        job.send_signal(signal.SIGTERM)
        _, rest = job.communicate(timeout=60)
    assert job.returncode == 143
    assert "pipeline.kfp.endpoint" in rest.splitlines()[-1]


@pytest.mark.parametrize("seconds", [60, 600, 7200])
def test_the_script_gives_up_before_its_job_does_and_no_second_pod_waits_again(seconds: int) -> None:
    job = only(render(values={"pipeline": {"upload": {"timeoutSeconds": seconds}}}), "Job", "-upload")
    (container,) = pod_spec(job)["containers"]  # type: ignore[index]
    assert seconds / 2 <= float(environment(container)["LORAPAR_WAIT_SECONDS"]) < job["spec"]["activeDeadlineSeconds"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [3]},
    }
