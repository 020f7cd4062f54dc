"""Scoring a sample of one system's rows: the right sample, resumable, with its provenance."""

from __future__ import annotations

import pytest
import torch

from lorapar.adapter import ScoreAccumulator, load_adapter, load_scores, score_elements
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.checkpoint import Keeper
from lorapar.config import ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.prompts import collate, encode_rows, rows_of
from lorapar.records import read_json
from lorapar.store import read_manifest

BASE = ModelConfig(name="builtin:tiny", dtype="float32")


def settings(kit, **changed):
    return {
        "model": kit.TINY,
        "prompts": {},
        "score": {"examples": 4, **changed},
        "seed": 3,
        "system": "system2",
    }


def scored(folder):
    return load_scores(folder / "scores" / "scores.safetensors")


def test_the_scores_are_those_of_the_adapter_room(kit, adapter, tmp_path) -> None:
    rows = kit.sums(4)
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", rows)}
    metrics, out = kit.run("score", tmp_path / "out", settings(kit, batch_size=2), inputs)
    tokenizer = load_tokenizer(BASE)
    encoded = encode_rows(tokenizer, rows_of(rows, "system2"), PromptConfig(), 512)
    batches = [collate([row], tokenizer.pad_token_id) for row in encoded]
    expected = score_elements(load_adapter(load_model(BASE), adapter, trainable=True), batches)
    found, metadata = scored(out)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-12)
    assert metrics["rows"] == 4
    assert metrics["total_importance"] == pytest.approx(sum(float(t.sum()) for t in found.values()), rel=1e-5)
    assert metadata["system"] == "system2"
    assert metadata["adapter_digest"] == read_manifest(adapter).digest
    assert metadata["data_digest"] == read_manifest(tmp_path / "rows").digest
    assert metadata["samples"] == "4"


def test_rows_of_like_length_share_a_batch(kit, adapter, tmp_path, monkeypatch) -> None:
    rows = kit.sums(4)
    longer = [
        row.model_copy(update={"question": row.question + " Say so" * times})
        for row, times in zip(rows, (9, 0, 8, 1), strict=True)
    ]
    lengths, update = [], ScoreAccumulator.update

    def counted(self, batch, *rows):
        lengths.append(batch["attention_mask"].sum(1).tolist())
        update(self, batch, *rows)

    monkeypatch.setattr(ScoreAccumulator, "update", counted)
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", longer)}
    kit.run("score", tmp_path / "out", settings(kit, batch_size=2), inputs)
    assert len(lengths) == 2
    assert max(lengths[0]) < min(lengths[1])


def test_the_seed_draws_the_sample_and_the_order_of_the_file_does_not_matter(kit, adapter, tmp_path) -> None:
    rows = kit.sums(12)
    samples = []
    for number, (order, seed) in enumerate([(rows, 3), (rows[::-1], 3), (rows, 4)]):
        inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / f"rows{number}", order)}
        _, out = kit.run("score", tmp_path / str(number), {**settings(kit), "seed": seed}, inputs)
        samples.append(scored(out)[1]["sample_digest"])
    assert samples[0] == samples[1] != samples[2]


def test_too_few_rows_are_all_used_and_reported_so(kit, adapter, tmp_path) -> None:
    notes = kit.Notes()
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", kit.sums(2))}
    metrics, _ = kit.run("score", tmp_path, settings(kit), inputs, notes)
    assert metrics["rows"] == 2
    assert notes.lines == ["score.examples is 4, but system2 has only 2 training rows: all are used"]


def test_rows_whose_answer_is_cut_off_are_left_out(kit, adapter, tmp_path) -> None:
    long = kit.sums(1)[0].model_copy(update={"id": "long", "question": "1+" * 300 + "2?"})
    notes = kit.Notes()
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", [*kit.sums(3), long])}
    metrics, _ = kit.run("score", tmp_path / "out", settings(kit, max_length=400), inputs, notes)
    assert metrics["rows"] == 3
    assert notes.lines == [
        "1 of 4 rows left out: no token of their answer is within 400 tokens; raise score.max_length"
    ]
    assert (metrics["rows_left_out"], metrics["rows_cut"]) == (1, 0)
    with pytest.raises(BadInputError, match=r"score.max_length is 10, which cuts off the whole answer of all 4 rows"):
        kit.run("score", tmp_path / "short", settings(kit, max_length=10), inputs)


def test_rows_that_are_cut_are_counted_and_reported(kit, adapter, tmp_path) -> None:
    notes, rows = kit.Notes(), kit.sums(4)
    encoded = encode_rows(load_tokenizer(BASE), rows_of(rows, "system2"), PromptConfig(), 1000)
    longest = max(len(row["input_ids"]) for row in encoded)
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", rows)}
    whole, _ = kit.run("score", tmp_path / "whole", settings(kit, max_length=400), inputs)
    assert whole["rows_cut"] == 0
    metrics, out = kit.run("score", tmp_path / "cut", settings(kit, max_length=longest - 1), inputs, notes)
    assert metrics["rows"] == 4
    assert metrics["rows_cut"] >= 1
    assert any("rows cut: they are longer than" in line for line in notes.lines)
    (cut,) = read_json(out / "scores" / "summary.json")["omissions"]
    assert (cut["count"], cut["total"], cut["remedy"]) == (metrics["rows_cut"], 4, "raise score.max_length")


def test_an_empty_system_is_refused(kit, adapter, tmp_path) -> None:
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", [])}
    with pytest.raises(BadInputError, match=r"examples.jsonl: no row of system2 to score with"):
        kit.run("score", tmp_path, settings(kit), inputs)


def test_a_killed_call_goes_on_where_it_stopped_and_ends_with_the_same_bytes(
    kit, adapter, tmp_path, monkeypatch
) -> None:
    inputs = {"adapter": adapter, "rows": kit.rows_folder(tmp_path / "rows", kit.sums(4))}
    _, whole = kit.run("score", tmp_path / "whole", settings(kit), inputs)
    monkeypatch.setattr(Keeper, "due", lambda keeper: True)
    update = ScoreAccumulator.update

    def killed_at_the_third(self, batch, *rows):
        if self.examples == 2:
            raise KeyboardInterrupt
        update(self, batch, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreAccumulator, "update", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            kit.run("score", tmp_path / "killed", settings(kit), inputs)
    notes = kit.Notes()
    _, killed = kit.run("score", tmp_path / "killed", settings(kit), inputs, notes)
    assert notes.lines == ["going on after 2 rows that were scored before"]
    name = "scores/scores.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
