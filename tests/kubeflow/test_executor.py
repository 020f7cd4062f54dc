"""Stages as tasks: in from the store by digest, out to the store, and told to KFP in its own types."""

from __future__ import annotations

import json
import math

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.config import load_config
from lorapar.errors import BadInputError, IntegrityError
from lorapar.kubeflow.executor_input import read_executor_input
from lorapar.kubeflow.executor_output import ExecutorOutput, flat_metrics
from lorapar.records import Example, Vote, write_json, write_records
from lorapar.stages.plan import node_settings

ROWS = {"system1_train": 3, "system1_heldout": 2, "system2_train": 3, "system2_heldout": 2}


def settings(node: str, *overrides: str) -> str:
    """A node's settings as `plan` hands them on."""
    mix = "data.task_mix={" + ", ".join(f"{key}: {value}" for key, value in ROWS.items()) + "}"
    config = load_config(preset="tiny", overrides=[mix, *overrides])
    return json.dumps(node_settings(config)[node])


def prepared(cluster, **more) -> str:
    """The digest of some examples, made by the stage itself."""
    out = cluster.run("prepare", {"settings": settings("prepare"), "store": cluster.address, **more}, ["examples"])
    return out.parameter_values["digest"].string_value


def test_a_task_leaves_digest_manifest_metrics_and_lineage(cluster) -> None:
    out = cluster.run("prepare", {"settings": settings("prepare"), "store": cluster.address}, ["examples"])
    digest = out.parameter_values["digest"].string_value
    (artifact,) = out.artifacts["examples"].artifacts
    about = json_format.MessageToDict(artifact.metadata)
    assert about["digest"] == digest
    assert about["stage"] == "prepare"
    assert about["kind"] == "prepare.examples"
    assert about["input_digests"] == {}
    kept = json.loads((cluster.root / "task-1" / "out" / "examples").read_text(encoding="utf-8"))
    assert kept == json.loads(cluster.store.read(f"manifests/{digest}.json"))
    assert all(cluster.store.exists(f"cas/{entry['sha256']}") for entry in kept["files"].values())
    (metrics,) = out.artifacts["metrics"].artifacts
    assert json_format.MessageToDict(metrics.metadata)["rows_train"] == 6


def test_equal_inputs_give_equal_digests(cluster) -> None:
    assert prepared(cluster) == prepared(cluster)


def test_a_consumer_takes_several_artifacts_by_their_digests(cluster, tmp_path) -> None:
    """Votes of two tasks, as KFP collects them; the tally shows the vote against the known systems."""
    examples = prepared(cluster)
    manifest = json.loads(cluster.store.read(f"manifests/{examples}.json"))
    lines = cluster.store.read(f"cas/{manifest['files']['examples.jsonl']['sha256']}").decode().splitlines()
    rows = [Example.model_validate_json(line) for line in lines]
    digests = []
    for teacher in ("forward", "preposition"):
        folder = tmp_path / teacher
        folder.mkdir()
        votes = [
            Vote(example_id=row.id, teacher=teacher, label=row.known_system, template="t", raw="x")
            for row in rows
            if row.split == "train"
        ]
        write_records(folder / "votes.jsonl", votes)
        write_json(folder / "summary.json", {"teachers": {}})
        digests.append(cluster.put(folder))
    out = cluster.run(
        "tally",
        {
            "settings": settings("tally-first"),
            "store": cluster.address,
            "examples_digest": examples,
            "votes_first_digests": digests,
        },
        ["labels", "undecided", "system1", "system2", "heldout", "confusion"],
        ["labels_digest", "system1_digest", "system2_digest", "undecided_digest", "heldout_digest"],
    )
    assert len({value.string_value for value in out.parameter_values.values()}) == 6
    (confusion,) = out.artifacts["confusion"].artifacts
    shown = json_format.MessageToDict(confusion.metadata)["confusionMatrix"]
    assert [one["displayName"] for one in shown["annotationSpecs"]] == ["system1", "system2"]
    assert [one["row"] for one in shown["rows"]] == [[3, 0], [0, 3]]


def test_an_artifact_that_is_gone_says_what_to_do(cluster) -> None:
    examples = prepared(cluster)
    cluster.store.delete(f"manifests/{examples}.json")
    values = {"settings": settings("vote-first"), "store": cluster.address, "examples_digest": examples}
    with pytest.raises(IntegrityError, match="--no-cache"):
        cluster.run("vote", values, ["votes"])


def test_settings_of_another_version_name_the_key(cluster) -> None:
    changed = json.loads(settings("prepare")) | {"news": 1}
    with pytest.raises(BadInputError, match=r"news.*same version"):
        cluster.run("prepare", {"settings": json.dumps(changed), "store": cluster.address}, ["examples"])


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
