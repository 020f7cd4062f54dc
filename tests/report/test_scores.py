"""Scores and benchmarks: intervals, cost, changes and their paired test, and models that were not asked."""

from __future__ import annotations

import dataclasses

import pytest

from lorapar.report.formats import NOTHING
from lorapar.report.metrics import Change, benchmark_lines, benchmarks, changes, find_change, metrics_of, scores
from lorapar.report.page import render_page
from lorapar.report.sources import Facts, ReportSources, read_facts

HEADING = "<h3>Benchmarks</h3>"
CHANGE = {"difference": 0.25, "interval": [0.1, 0.4], "p_value": 0.001, "wins": 40, "losses": 15, "rows": 100}


def figures(accuracy: float | None) -> dict:
    bounds = None if accuracy is None else [accuracy - 0.1, accuracy + 0.1]
    return {
        "rows": 1319,
        "accuracy": accuracy,
        "interval": bounds,
        "lenient_accuracy": accuracy,
        "lenient_interval": bounds,
        "seconds_per_answer": 0.01234,
        "tokens_per_answer": 87.4,
    }


def facts() -> Facts:
    models = {"base": 0.2, "after_sft": 0.4, "after_rl": 0.45, "incumbent": None}
    evaluation = {model: {"benchmarks": {"gsm8k": figures(accuracy)}} for model, accuracy in models.items()}
    return Facts(evaluation={**evaluation, "changes": {"gsm8k": {"base_to_after_rl": CHANGE}}, "confidence": 0.95})


def test_every_model_has_a_line_with_its_interval_and_cost() -> None:
    (found,) = benchmarks(facts())
    assert found.title == "GSM8K"
    assert [row.model for row in found.rows] == ["base", "after SFT", "after RL", "incumbent"]
    last = found.rows[2]
    assert (last.rows, last.strict, last.seconds, last.tokens) == ("1,319", "45.0%", "0.012 s", "87")
    assert last.strict_interval == "35.0\u201355.0%"
    assert found.rows[3].strict == found.rows[3].strict_interval == NOTHING
    assert "rose by 25.0 points (40 rows won, 15 lost" in found.changes[0].sentence


def test_the_figures_are_in_metrics_json_too() -> None:
    metrics = metrics_of(facts())
    assert metrics["incumbent"]["benchmarks"]["gsm8k"]["rows"] == 1319
    assert metrics["changes"]["gsm8k_base_to_after_rl"]["verdict"] == "up"


def test_the_page_shows_benchmarks_where_there_are_any(sources) -> None:
    whole = read_facts(sources)
    assert HEADING not in render_page(whole)
    asked = {**whole.evaluation, "after_rl": {**whole.evaluation["after_rl"], "benchmarks": {"mmlu": figures(0.5)}}}
    page = render_page(dataclasses.replace(whole, evaluation=asked))
    assert HEADING in page
    assert "MMLU, after RL" in page


def test_the_closing_lines_name_every_model() -> None:
    assert benchmark_lines(metrics_of(facts())) == [
        "GSM8K: base 20.0%, after SFT 40.0%, after RL 45.0% (after RL against base: up, p = 0.001)"
    ]


def test_version_metrics_and_standard_errors_of_a_task_are_shown_and_a_text_among_them_is_no_trouble() -> None:
    by_name = {
        **figures(0.25),
        "version": "2.5",
        "metric": "acc_norm,none",
        "score": 0.25,
        "stderr": "N/A",
        "scores": {"acc_norm,none": 0.25, "acc_norm_stderr,none": "N/A", "f1,strict": 0.5, "f1_stderr,strict": 0.0123},
    }
    (found,) = benchmarks(Facts(evaluation={"base": {"benchmarks": {"animals": by_name}}, "confidence": 0.95}))
    assert found.notes == [
        "animals: version 2.5 of the task",
        "animals, base: acc_norm 0.25 (standard error N/A); f1,strict 0.5 (standard error 0.012)",
    ]


def test_a_task_without_a_verdict_on_rows_has_its_figure_in_the_closing_lines() -> None:
    texts = {**figures(None), "metric": "word_perplexity,none", "score": 12.345, "scores": {}}
    whole = Facts(evaluation={"base": {"benchmarks": {"texts": texts}}, "changes": {}, "confidence": 0.95})
    assert benchmark_lines(metrics_of(whole)) == ["texts: base word_perplexity,none 12.35"]


def test_a_group_shows_its_groups_and_tasks_with_their_versions_and_errors() -> None:
    def scored(value: float) -> dict:
        return {"acc,none": value, "acc_stderr,none": 0.05}

    def group(value: float) -> dict:
        tasks = {"rivers": {"rows": 1200, "version": "3", "metric": "acc,none", "scores": scored(value)}}
        about = {"version": "2", "metric": "acc,none", "score": value, "scores": scored(value)}
        return {**figures(value), **about, "tasks": tasks, "groups": {"water": scored(value)}}

    evaluation = {model: {"benchmarks": {"world": group(value)}} for model, value in (("base", 0.2), ("after_rl", 0.3))}
    (found,) = benchmarks(Facts(evaluation={**evaluation, "confidence": 0.95}))
    assert found.notes == [
        "world: version 2 of the task",
        "world, base: acc 0.2 (standard error 0.05)",
        "world, after RL: acc 0.3 (standard error 0.05)",
        "world, rivers (1,200 rows, version 3): base acc 0.2 (standard error 0.05); "
        "after RL acc 0.3 (standard error 0.05)",
        "world, group water: base acc 0.2 (standard error 0.05); after RL acc 0.3 (standard error 0.05)",
    ]


@pytest.mark.parametrize(
    ("difference", "p_value", "wins", "losses", "verdict"),
    [
        (0.3, 0.0001, 20, 1, "up"),
        (-0.3, 0.049, 1, 20, "down"),
        (-0.05, 0.45, 2, 5, "within noise"),
        (0.3, 0.05, 9, 2, "within noise"),
        (0.0, 1.0, 0, 0, "unchanged"),
    ],
)
def test_a_verdict_needs_the_paired_test(
    difference: float, p_value: float, wins: int, losses: int, verdict: str
) -> None:
    bounds = (difference - 0.1, difference + 0.1)
    change = Change("system1", "after_sft", "after_rl", difference, bounds, p_value, wins, losses, 0.95)
    assert change.verdict == verdict


def test_every_change_of_a_run_is_read(sources: ReportSources) -> None:
    found = changes(read_facts(sources))
    assert len(found) == 6
    whole = find_change(found, "system2", "base", "after_rl")
    assert whole is not None
    figures = {(score.system, score.model): score.strict or 0.0 for score in scores(read_facts(sources))}
    assert whole.difference == pytest.approx(figures["system2", "after_rl"] - figures["system2", "base"])
