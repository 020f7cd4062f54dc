"""The publish stage on what the stages before it leave."""

from __future__ import annotations

import json

import pytest
from peft import PeftModel

from lorapar.basemodel import load_model
from lorapar.config import ModelConfig, RunConfig, load_config
from lorapar.errors import BadInputError
from lorapar.records import Example, Label, write_records
from lorapar.registry import Registry
from lorapar.store import open_store, seal


@pytest.fixture
def inputs(kit, adapter, partition, tmp_path):
    rows = [*kit.words(6, "heldout"), *kit.sums(3)]
    labels = tmp_path / "labels"
    labels.mkdir()
    write_records(
        labels / "labels.jsonl", [Label(example_id=r.id, system="system1", votes={}, agreement=1.0) for r in rows]
    )
    seal(labels, "tally.labels")
    votes = []
    for name in ("first", "rest"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "summary.json").write_text("{}")
        seal(folder, "vote.votes")
        votes.append(folder)
    return {
        "adapter": adapter,
        "examples": kit.rows_folder(tmp_path / "examples", rows),
        "labels": labels,
        "partition": partition,
        "votes": tuple(votes),
    }


@pytest.fixture
def settings(kit, tmp_path) -> dict:
    from lorapar.stages.plan import stage_settings

    values = {"name": "mine", "seed": 5, "model": kit.TINY, "adapter": kit.ADAPTER}
    config = RunConfig.model_validate({**values, "registry": {"address": str(tmp_path / "registry")}})
    return stage_settings(config, "publish", {}).model_dump(mode="json")


@pytest.fixture
def registry(settings) -> Registry:
    return Registry(open_store(settings["registry"]["address"]))


def test_the_adapter_is_published_with_its_proof(kit, inputs, settings, registry, tmp_path) -> None:
    metrics, out = kit.run("publish", tmp_path / "out", settings, inputs)
    assert metrics["max_logit_difference"] <= 1e-4
    assert metrics["equal_greedy_share"] == 1.0
    assert (metrics["rank"], metrics["version"]) == (4, 1)
    lineage = json.loads((out / "adapter" / "lineage.json").read_text())
    assert set(lineage["code"]["stages"]) >= {"vote", "sft", "rl"}
    assert lineage["partition"]["theta"] == 0.9
    version = json.loads((out / "version" / "version.json").read_text())
    assert version["verification"]["prompts"] == 5
    assert version["incumbent"] is None
    assert registry.resolve("mine@candidate").digest == version["digest"]
    assert json.loads((out / "incumbent" / "incumbent.json").read_text()) == {"version": None, "digest": None}
    PeftModel.from_pretrained(load_model(ModelConfig(name="builtin:tiny", dtype="float32")), str(out / "adapter"))


def test_the_lineage_holds_settings_that_a_run_takes(kit, inputs, settings, tmp_path) -> None:
    out = kit.run("publish", tmp_path / "out", settings, inputs)[1]
    lineage = json.loads((out / "adapter" / "lineage.json").read_text())
    file = tmp_path / "again.yaml"
    file.write_text(json.dumps(lineage["settings"]))
    again = load_config(file=file)
    assert (again.seed, again.adapter.rank, again.model.name) == (5, 2, "builtin:tiny")
    assert again.registry.address is None, "where it was published is no part of what it is"


def test_what_production_names_is_fetched_to_be_beaten(kit, inputs, settings, registry, tmp_path) -> None:
    kit.run("publish", tmp_path / "first", settings, inputs)
    registry.move_alias("mine", "production", 1, expected=None)
    _, same = kit.run("publish", tmp_path / "same", settings, inputs)
    assert json.loads((same / "version" / "version.json").read_text())["incumbent"] is None, (
        "it is in production itself"
    )
    metrics, other = kit.run("publish", tmp_path / "other", {**settings, "seed": 6}, inputs)
    assert metrics["version"] == 2
    version = json.loads((other / "version" / "version.json").read_text())
    assert version["incumbent"] == {"version": 1, "digest": registry.resolve("mine@1").digest}
    weights = "adapter_model.safetensors"
    assert (other / "incumbent" / "adapter" / weights).read_bytes() == (
        tmp_path / "first" / "adapter" / weights
    ).read_bytes()
    registry.move_alias("mine", "production", 2, expected=1)
    _, again = kit.run("publish", tmp_path / "again", {**settings, "seed": 6}, inputs)
    assert (again / "incumbent" / "manifest.json").read_bytes() == (other / "incumbent" / "manifest.json").read_bytes()


def test_without_a_registry_it_says_so(kit, inputs, settings, tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"registry\.address is not set"):
        kit.run("publish", tmp_path / "out", {**settings, "registry": {}}, inputs)


def test_the_proof_asks_heldout_rows_first(kit, inputs, settings) -> None:
    from lorapar.stages import publish
    from lorapar.stages.contract import StageCall

    call = StageCall(
        settings=publish.Settings.model_validate(settings),
        inputs={"examples": (inputs["examples"],)},
        outputs={},
        scratch=inputs["examples"],
    )
    asked = publish._questions(call)
    assert len(set(asked)) == 4
    assert set(asked) <= {row.question for row in kit.words(6, "heldout")}
    assert isinstance(kit.words(1)[0], Example)
