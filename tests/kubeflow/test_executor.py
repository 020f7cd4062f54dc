"""Stages as tasks: in from the store by digest, out to the store, and told to KFP in its own types."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.config import load_config
from lorapar.errors import BadInputError, IntegrityError
from lorapar.kubeflow.executor_io import ExecutorOutput, flat_metrics, read_executor_input
from lorapar.local.live import Watcher
from lorapar.records import Example, Vote, write_json, write_records
from lorapar.stages import prepare
from lorapar.stages.plan import node_settings
from tests.kubeflow.conftest import executor_input

ROWS = {"system1_train": 3, "system1_heldout": 2, "system2_train": 3, "system2_heldout": 2}


def settings(*nodes: str) -> dict[str, Any]:
    """Settings of some nodes as `plan` hands them to a task."""
    mix = "data.task_mix={" + ", ".join(f"{key}: {value}" for key, value in ROWS.items()) + "}"
    planned = node_settings(load_config(preset="tiny", overrides=[mix]))
    return {node: planned[node] for node in nodes}


def prepared(cluster) -> Any:
    """What a task tells of examples that it has made."""
    values = {"settings": cluster.settings(settings("prepare")), "store": cluster.address}
    return cluster.run("prepare", values, ["examples"], ["examples_digest"])


def digest_of_examples(cluster) -> str:
    digest: str = prepared(cluster).parameter_values["examples_digest"].string_value
    return digest


def metadata(out, name: str) -> dict[str, Any]:
    (artifact,) = out.artifacts[name].artifacts
    return json_format.MessageToDict(artifact.metadata)


def test_a_task_leaves_digest_manifest_figures_and_lineage(cluster) -> None:
    out = prepared(cluster)
    digest = out.parameter_values["examples_digest"].string_value
    about = metadata(out, "examples")
    assert about["digest"] == digest
    assert about["kind"] == "prepare.examples"
    assert cluster.store.exists(f"records/{about['record']}.json")
    assert len(json.dumps(about)) < 400, "it stands in Kubeflow's database and in what is passed on"
    kept = json.loads((cluster.root / "task-1" / "out" / "examples").read_text(encoding="utf-8"))
    assert kept == json.loads(cluster.store.read(f"manifests/{digest}.json"))
    assert all(cluster.store.exists(f"cas/{entry['sha256']}") for entry in kept["files"].values())


def test_a_task_whose_output_nobody_reads_any_more_goes_on_to_its_end(cluster) -> None:
    """At SIGTERM Kubeflow's launcher, which reads the task's output, is gone first (2.17.0, launcher-v2/main.go)."""
    digest = digest_of_examples(cluster)
    values = {"settings": cluster.settings(settings("prepare")), "store": cluster.address}
    text = executor_input(cluster.root / "task", values, ["examples", "metrics"], ["examples_digest"])
    command = [sys.executable, "-m", "lorapar", "stage", "prepare", "--executor-input", text]
    variables = {**os.environ, "LORAPAR_SCRATCH": str(cluster.root / "scratch")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as task:
        assert task.stdout is not None
        assert task.stderr is not None
        task.stdout.close()
        task.stderr.close()
    assert task.returncode == 0
    written = json.loads((cluster.root / "task" / "executor_output.json").read_text(encoding="utf-8"))
    assert written["parameterValues"]["examples_digest"] == digest


def test_equal_inputs_give_equal_digests(cluster, monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_REUSE", "off")
    assert digest_of_examples(cluster) == digest_of_examples(cluster)


@pytest.mark.parametrize(("reuse", "loaded"), [("", 1), ("off", 2)])
def test_a_finished_stage_is_taken_from_the_store_unless_all_is_to_be_made_anew(
    cluster, monkeypatch, reuse, loaded
) -> None:
    calls = []
    run = prepare.run
    monkeypatch.setattr(prepare, "run", lambda call: calls.append(call) or run(call))
    monkeypatch.setenv("LORAPAR_REUSE", reuse)
    first, second = prepared(cluster), prepared(cluster)
    assert len(calls) == loaded
    assert {call.anew for call in calls} == {reuse == "off"}, "nor does it recall answers of models"
    assert first.parameter_values["examples_digest"] == second.parameter_values["examples_digest"]


@pytest.mark.parametrize("lost", ["manifests", "cas"])
def test_what_the_store_has_lost_is_made_again(cluster, lost) -> None:
    digest = digest_of_examples(cluster)
    for info in list(cluster.store.list(f"{lost}/")):
        cluster.store.delete(info.key)
    assert digest_of_examples(cluster) == digest
    assert cluster.store.exists(f"manifests/{digest}.json")


def votes_on(cluster, examples: str, folder: Path, *teachers: str) -> list[str]:
    """The digests of what tasks of the first round would have made, each of one teacher who is always right."""
    manifest = json.loads(cluster.store.read(f"manifests/{examples}.json"))
    lines = cluster.store.read(f"cas/{manifest['files']['examples.jsonl']['sha256']}").decode().splitlines()
    rows = [Example.model_validate_json(line) for line in lines]
    digests = []
    for teacher in teachers:
        place = folder / teacher
        place.mkdir()
        votes = [
            Vote(example_id=row.id, teacher=teacher, label=row.known_system, template="t", raw="x")
            for row in rows
            if row.split == "train"
        ]
        write_records(place / "votes.jsonl", votes)
        write_json(place / "summary.json", {"teachers": {}})
        digests.append(cluster.put(place))
    return digests


def test_the_second_round_is_counted_before_and_after_in_one_task(cluster, tmp_path, monkeypatch) -> None:
    """Each node has a record of its own; the vote is shown against the known systems."""
    monkeypatch.setenv("LORAPAR_RUN", "run-1")
    examples = digest_of_examples(cluster)
    planned = settings("tally-first", "vote-rest", "tally")
    planned["vote-rest"]["asked"] = []
    out = cluster.run(
        "vote",
        {
            "settings": cluster.settings(planned),
            "store": cluster.address,
            "accelerators": "0",
            "examples_digest": examples,
            "votes_first_digests": votes_on(cluster, examples, tmp_path, "forward", "preposition"),
        },
        ["labels", "confusion"],
        ["votes_digest", "labels_digest", "system1_digest", "system2_digest", "heldout_digest"],
    )
    assert len({value.string_value for value in out.parameter_values.values()}) == 5
    shown = metadata(out, "confusion")["confusionMatrix"]
    assert [one["displayName"] for one in shown["annotationSpecs"]] == ["system1", "system2"]
    assert [one["row"] for one in shown["rows"]] == [[3, 0], [0, 3]]
    figures = metadata(out, "metrics")
    assert (figures["system1_rows"], figures["system2_rows"], figures["vote_accuracy"]) == (3, 3, 1.0)
    assert set(figures) <= {"system1_rows", "system2_rows", "vote_accuracy", "krippendorff_alpha"}, "not all there is"
    kept = [json.loads(cluster.store.read(info.key)) for info in cluster.store.list("runs/run-1/records/")]
    assert {record["node"] for record in kept} == {"prepare", "tally-first", "vote-rest", "tally"}
    seen = Watcher(f"{cluster.address}/runs/run-1").look()
    assert {node.node for node in seen.nodes if node.state == "finished"} == {record["node"] for record in kept}
    live = [json.loads(cluster.store.read(info.key)) for info in cluster.store.list("runs/run-1/live/")]
    assert {one["node"]: one["state"] for one in live} == {record["node"]: "finished" for record in kept}


def test_an_artifact_that_is_gone_says_what_to_do(cluster) -> None:
    examples = digest_of_examples(cluster)
    cluster.store.delete(f"manifests/{examples}.json")
    planned = cluster.settings(settings("vote-first"))
    with pytest.raises(IntegrityError, match="--no-cache"):
        cluster.run("vote", {"settings": planned, "store": cluster.address, "examples_digest": examples}, ["votes"])


def test_settings_that_are_gone_or_changed_say_where_they_lay(cluster) -> None:
    planned = cluster.settings(settings("prepare"))
    cluster.store.write(f"settings/{planned}.json", b"{}")
    with pytest.raises(IntegrityError, match=rf"settings/{planned}\.json: not the settings that `plan` wrote"):
        cluster.run("prepare", {"settings": planned, "store": cluster.address}, ["examples"])
    cluster.store.delete(f"settings/{planned}.json")
    with pytest.raises(IntegrityError, match=r"\.json: what `plan` wrote is not in the store"):
        cluster.run("prepare", {"settings": planned, "store": cluster.address}, ["examples"])


def test_settings_of_another_version_name_the_key(cluster) -> None:
    changed = settings("prepare")
    changed["prepare"]["news"] = 1
    with pytest.raises(BadInputError, match=r"news.*same version"):
        cluster.run("prepare", {"settings": cluster.settings(changed), "store": cluster.address}, ["examples"])


def test_every_artifact_has_a_file_or_kubeflow_could_not_take_the_task_from_its_cache(tmp_path) -> None:
    """The launcher forgets an artifact without a file, and the driver of the next run then fails.

    Kubeflow 2.17.0: backend/src/v2/component/launcher_v2.go (uploadOutputArtifacts), backend/src/v2/driver/cache.go
    (collectOutputArtifactMetadataFromCache, "unable to find artifact with name").
    """
    made = pb.ExecutorInput()
    made.outputs.output_file = str(tmp_path / "out.json")
    for name in ("confusion", "executor-logs"):
        made.outputs.artifacts[name].artifacts.append(pb.RuntimeArtifact(name=name, uri=str(tmp_path / name)))
    ExecutorOutput(read_executor_input(json_format.MessageToJson(made))).write()
    assert (tmp_path / "confusion").exists()
    assert not (tmp_path / "executor-logs").exists(), "the launcher's own"


def test_nan_and_infinities_do_not_cost_the_outputs(tmp_path) -> None:
    made = pb.ExecutorInput()
    made.outputs.artifacts["metrics"].artifacts.append(pb.RuntimeArtifact(name="metrics", uri=str(tmp_path / "m")))
    made.outputs.parameters["digest"].output_file = str(tmp_path / "digest")
    made.outputs.output_file = str(tmp_path / "out.json")
    out = ExecutorOutput(read_executor_input(json_format.MessageToJson(made)))
    out.set_metadata("metrics", flat_metrics({"loss": math.nan, "best": math.inf, "rows": 3.0}))
    out.set_metadata("metrics", {"nested": {"loss": math.nan, 1: [math.inf, 2.5]}, **flat_metrics({"rows": 3.0})})
    out.set_parameter("digest", "d")
    out.set_parameter("not_declared", "x")
    out.write()
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    parsed = json_format.Parse(text, pb.ExecutorOutput(), ignore_unknown_fields=False)
    assert list(parsed.parameter_values) == ["digest"]
    metadata = json_format.MessageToDict(parsed.artifacts["metrics"].artifacts[0].metadata)
    assert metadata == {"nested": {"loss": "nan", "1": ["inf", 2.5]}, "rows": 3.0}


def test_only_finite_numbers_are_scores() -> None:
    assert flat_metrics({"loss": math.nan, "best": math.inf, "rows": 3}) == {"rows": 3.0}
