"""The publish stage on what the stages before it leave."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel

from lorapar.adapter.files import read_tensors, write_tensors
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig, RunConfig, load_config
from lorapar.errors import BadInputError
from lorapar.evaluation import AnsweredBatch, AnswerJournal
from lorapar.records import Example, Label, write_records
from lorapar.registry import Registry
from lorapar.store import open_store, seal
from lorapar.training.candidates import candidate_folder

WEIGHTS = "adapter_model.safetensors"


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
    proved, _ = kit.run("publish", tmp_path / "first", settings, inputs)
    registry.move_alias("mine", "production", 1, expected=None)
    recalled, same = kit.run("publish", tmp_path / "same", settings, inputs)
    assert (proved.get("proof_recalled"), recalled.get("proof_recalled")) == (None, 1.0)
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


@pytest.fixture
def best(kit, inputs, settings, tmp_path):
    """Inputs and settings of a run with two candidates beside its last adapter, each of other weights."""
    trained = tmp_path / "trained"
    shutil.copytree(inputs["adapter"], trained)
    (trained / "manifest.json").unlink()
    for step, sign in ((2, 1.0), (4, -1.0)):
        folder = candidate_folder(trained, step)
        shutil.copytree(inputs["adapter"], folder, ignore=shutil.ignore_patterns("manifest.json", "summary.json"))
        tensors, about = read_tensors(folder / WEIGHTS)
        noise = torch.Generator().manual_seed(step)
        write_tensors(
            folder / WEIGHTS, {n: t + sign * torch.randn(t.shape, generator=noise) for n, t in tensors.items()}, about
        )
    (trained / "candidates" / "summary.json").write_text('{"steps": 6, "system": "system2"}')
    seal(trained, "rl.adapter")
    asked = {"max_new_tokens": 6, "batch_size": 16}
    settings = {**settings, "publish": {"pick": "best", "candidates": 3}, "evaluate": asked, "answers": "text"}
    settings["data"] = {**settings["data"], "development": 12}
    return {**inputs, "adapter": trained}, settings


def development(kit, tmp_path, inputs, references):
    """The inputs with development rows of these references."""
    rows = [row.model_copy(update={"split": "development", "known_system": "system1"}) for row in kit.words(12)]
    rows = [row.model_copy(update={"reference": references.get(row.id, "no such answer")}) for row in rows]
    return {**inputs, "examples": kit.rows_folder(tmp_path, [*kit.words(6, "heldout"), *rows])}


def test_an_earlier_adapter_is_published_where_it_is_better_by_the_test(kit, best, registry, tmp_path) -> None:
    inputs, settings = best
    last, candidate = inputs["adapter"], candidate_folder(inputs["adapter"], 4)
    notes = kit.Notes()
    metrics, out = kit.run(
        "publish", tmp_path / "one", settings, development(kit, tmp_path / "rows", inputs, {}), notes
    )
    assert (metrics["picked_step"], metrics["candidates"]) == (6, 3), "nobody is right, so the last one stays"
    assert (out / "adapter" / WEIGHTS).read_bytes() == (last / WEIGHTS).read_bytes()
    answered = [
        AnsweredBatch.model_validate_json(line)
        for line in (out / "scratch" / "picking" / "answers.jsonl").read_text().splitlines()
    ]
    answer = {one.example_id: one.text for batch in answered if batch.model.endswith("step 4") for one in batch.answers}
    others = {one.text for batch in answered if not batch.model.endswith("step 4") for one in batch.answers}
    assert len(answer) == 12
    assert not others & set(answer.values())

    def run(right: int):
        references = dict(list(answer.items())[:right])
        asked = development(kit, tmp_path / f"rows-{right}", inputs, references)
        return kit.run("publish", tmp_path / f"right-{right}", settings, asked)

    metrics, _ = run(6)
    assert metrics["picked_step"] == 6, "2 / 2 ** 6 = 0.031 is not below 0.05 / 2, of two comparisons"
    metrics, out = run(7)
    assert metrics["picked_step"] == 4, "2 / 2 ** 7 = 0.016 is"
    assert metrics["max_logit_difference"] <= 1e-4
    assert (out / "adapter" / WEIGHTS).read_bytes() == (candidate / WEIGHTS).read_bytes()
    lineage = json.loads((out / "adapter" / "lineage.json").read_text())
    reported = lineage["picked"]
    assert (reported["step"], reported["steps"], reported["development_rows"], reported["p_below"]) == (
        4,
        6,
        12,
        pytest.approx(0.025),
    )
    assert [(one["step"], one["right"]) for one in reported["candidates"]] == [(2, 0), (4, 7), (6, 0)]
    again = RunConfig.model_validate(lineage["settings"])
    assert (again.publish.candidates, again.data.development, again.answers) == (3, 12, "text")


def test_what_was_answered_before_a_kill_is_not_asked_again(kit, best, tmp_path, monkeypatch) -> None:
    inputs, settings = best
    asked = development(kit, tmp_path / "rows", inputs, {})
    written: list[AnsweredBatch] = []
    keep = AnswerJournal.add
    monkeypatch.setattr(AnswerJournal, "add", lambda journal, batch: (written.append(batch), keep(journal, batch)))
    _, out = kit.run("publish", tmp_path / "out", settings, asked)
    assert len(written) == 3, "a batch of each adapter"
    journal = out / "scratch" / "picking" / "answers.jsonl"
    whole = journal.read_text()
    first, second, _ = whole.splitlines(keepends=True)
    journal.write_text(first + second[: len(second) // 2])  # cut off within the second batch
    lineage = (out / "adapter" / "lineage.json").read_bytes()
    written.clear()
    _, out = kit.run("publish", out, settings, asked)
    kept = AnsweredBatch.model_validate_json(first).model
    assert len(written) == 2
    assert kept not in {batch.model for batch in written}, "what was whole is not asked again"
    assert (out / "adapter" / "lineage.json").read_bytes() == lineage


def test_what_cannot_be_picked_is_refused(kit, best, tmp_path) -> None:
    inputs, settings = best
    with pytest.raises(BadInputError, match="none of the 0 development rows"):
        kit.run("publish", tmp_path / "out", settings, inputs)
    plain = {**inputs, "adapter": kit.rows_folder(tmp_path / "plain", [])}
    with pytest.raises(BadInputError, match="holds no candidates"):
        kit.run("publish", tmp_path / "out2", settings, plain)


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
