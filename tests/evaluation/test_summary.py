"""Figures of an evaluation from given answers, and answers kept across a kill."""

from __future__ import annotations

import pytest

from lorapar.evaluation import AnsweredBatch, AnswerJournal, all_changes, flat_metrics, model_metrics, wilson_interval
from lorapar.records import Answer


def answer(row: str, system: str, model: str, strict: bool | None, loss: float = 1.0) -> Answer:
    return Answer(
        example_id=row, system=system, model=model, text="x", tokens=3, strict=strict, lenient=strict, loss=loss
    )


def batch(model: str, verdicts: list[bool | None], number: int = 0, system: str = "system1") -> AnsweredBatch:
    rows = [answer(f"{number}-{n}", system, model, verdict, loss=n) for n, verdict in enumerate(verdicts)]
    return AnsweredBatch(model=model, seconds=2.0, answers=tuple(rows))


def test_figures_of_one_model() -> None:
    batches = [batch("base", [True, False, None, True]), batch("base", [None, None], 1, "system2")]
    figures = model_metrics(batches, 0.9)
    assert figures["system1_accuracy"] == pytest.approx(2 / 3)
    assert figures["system1_interval"] == list(wilson_interval(2, 3, 0.9))
    assert (figures["system1_rows"], figures["system1_loss"]) == (4, 1.5)
    assert figures["system2_accuracy"] is None
    assert figures["system2_interval"] is None
    assert (figures["seconds_per_answer"], figures["tokens_per_answer"]) == (4 / 6, 3)
    metrics = flat_metrics({"base": figures})
    assert metrics["base_system1_accuracy"] == pytest.approx(2 / 3)
    assert "base_system2_accuracy" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_a_system_without_rows_has_no_figures() -> None:
    figures = model_metrics([batch("base", [True])], 0.95)
    assert (figures["system2_rows"], figures["system2_loss"], figures["system2_accuracy"]) == (0, None, None)


def test_changes_pair_rows_by_name_whatever_their_order() -> None:
    before = [answer("a", "system1", "base", False), answer("b", "system1", "base", False)]
    after = [answer("b", "system1", "sft", True), answer("a", "system1", "sft", False)]
    last = [answer("a", "system1", "rl", False), answer("b", "system1", "rl", False)]
    changes = all_changes({"base": before, "sft": after, "rl": last}, 0.95)
    assert set(changes) == {"system1"}
    assert set(changes["system1"]) == {"base_to_sft", "sft_to_rl", "base_to_rl"}
    first = changes["system1"]["base_to_sft"]
    assert (first["wins"], first["losses"], first["difference"], first["rows"]) == (1, 0, 0.5, 2)
    assert (first["p_value"], first["lenient"]["wins"]) == (1.0, 1)
    assert changes["system1"]["sft_to_rl"]["losses"] == 1
    assert changes["system1"]["base_to_rl"]["difference"] == 0


def test_a_book_survives_a_kill_in_the_middle_of_a_line(tmp_path) -> None:
    path = tmp_path / "answers.jsonl"
    book = AnswerJournal(path)
    book.add(batch("base", [True, None]))
    book.add(batch("base", [False], 1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = AnswerJournal(path)
    assert len(again) == 1
    assert again.holds("base", "system1", "0-1")
    assert not again.holds("base", "system1", "1-0")
    again.add(batch("base", [False], 1))
    assert path.read_bytes() == whole
    assert [len(b.answers) for b in AnswerJournal(path).of("base")] == [2, 1]
