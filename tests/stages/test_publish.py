"""The publish stage on what the stages before it leave."""

from __future__ import annotations

import json

import pytest
from peft import PeftModel

from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
from lorapar.records import Example, Label, write_records
from lorapar.store import seal


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


def settings(kit) -> dict:
    return {"name": "mine", "model": kit.TINY, "adapter": kit.ADAPTER, "partition": {}, "seed": 5}


def test_the_adapter_is_published_with_its_proof(kit, inputs, tmp_path) -> None:
    metrics, out = kit.run("publish", tmp_path / "out", settings(kit), inputs)
    assert metrics["max_logit_difference"] <= 1e-4
    assert metrics["equal_greedy_share"] == 1.0
    assert metrics["rank"] == 4
    lineage = json.loads((out / "adapter" / "lineage.json").read_text())
    assert lineage["settings"]["adapter"]["rank"] == 2
    assert lineage["settings"]["seed"] == 5
    assert set(lineage["code"]["stages"]) >= {"sft", "rl", "publish"}
    assert lineage["partition"]["theta"] == 0.9
    assert lineage["verification"]["prompts"] == 5
    PeftModel.from_pretrained(load_model(ModelConfig(name="builtin:tiny")), str(out / "adapter"))


def test_the_proof_asks_heldout_rows_first(kit, inputs) -> None:
    from lorapar.stages import publish
    from lorapar.stages.contract import StageCall

    call = StageCall(
        settings=publish.Settings.model_validate(settings(kit)),
        inputs={"examples": (inputs["examples"],)},
        outputs={},
        scratch=inputs["examples"],
    )
    asked = publish._questions(call)
    assert len(set(asked)) == 4
    assert set(asked) <= {row.question for row in kit.words(6, "heldout")}
    assert isinstance(kit.words(1)[0], Example)
