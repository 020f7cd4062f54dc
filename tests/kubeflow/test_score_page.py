"""The table that `evaluate` shows in Kubeflow's pages, from figures that the stage's own code makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.evaluation.answer_journal import AnsweredBatch
from lorapar.evaluation.summary import all_changes, model_metrics
from lorapar.kubeflow.executor_io import ExecutorOutput, read_executor_input
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.summary import score_page, score_table
from lorapar.kubeflow.task_outputs import show_node
from lorapar.kubeflow.tasks import node_named
from lorapar.local.folder import StageRecord
from lorapar.records import Answer, write_json
from lorapar.store import open_store

# How many of ten answers to each system are right, by model.
RIGHT = {"base": (0, 1), "after_sft": (9, 2), "after_rl": (9, 9), "incumbent": (5, 5)}


def answers(model: str) -> tuple[Answer, ...]:
    return tuple(
        Answer(example_id=f"{n}", system=system, model=model, text="x", tokens=1, strict=n < right, lenient=True)
        for system, right in zip(("system1", "system2"), RIGHT[model], strict=True)
        for n in range(10)
    )


@pytest.fixture
def summary() -> dict[str, Any]:
    """summary.json of an evaluation."""
    by_model = {model: answers(model) for model in RIGHT}
    figures = {
        model: model_metrics([AnsweredBatch(model=model, seconds=1.0, answers=own)], 0.95)
        for model, own in by_model.items()
    }
    compared = {model: list(own) for model, own in by_model.items() if model != "incumbent"}
    return {**figures, "changes": all_changes(compared, 0.95), "confidence": 0.95}


def test_every_model_has_a_row_with_strict_interval_and_lenient(summary) -> None:
    head, _, *rows = score_table(summary).splitlines()
    assert head == "| held-out answers | System 1 strict | lenient | System 2 strict | lenient |"
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert list(cells) == ["base", "after SFT", "after RL", "incumbent"]
    # Wilson's interval of 9 in 10, worked out by hand: 59.6% to 98.2%.
    assert cells["after SFT"][:2] == ["90.0% (60\u201398%)", "100.0%"]
    assert cells["incumbent"][0].startswith("50.0%")
    assert score_table({}) == ""


def test_changes_are_reported_as_the_report_tells_them(summary) -> None:
    text = score_page(summary)
    assert "- System 1, base to after SFT: rose by 90.0 points (9 rows won, 0 lost, p = 0.004)" in text
    assert "- System 1, after SFT to after RL: gave the same verdict on every row" in text


def test_benchmarks_have_a_table_each_and_code_has_no_figure_yet(summary) -> None:
    asked = {"rows": 164, "accuracy": None, "interval": None, "lenient_accuracy": None, "lenient_interval": None}
    summary["base"]["benchmarks"] = {"humaneval": {**asked, "seconds_per_answer": 0.1, "tokens_per_answer": 9.0}}
    assert "## HumanEval\n\n| model | rows | strict | lenient |\n" in score_page(summary)
    assert "| base | 164 | \u2013 | \u2013 |" in score_page(summary)


def test_kubeflow_finds_the_page_where_it_looks(summary, tmp_path) -> None:
    made = pb.ExecutorInput()
    made.outputs.artifacts["summary"].artifacts.append(pb.RuntimeArtifact(name="summary", uri=str(tmp_path / "s.md")))
    made.outputs.output_file = str(tmp_path / "out.json")
    out = ExecutorOutput(read_executor_input(json_format.MessageToJson(made)))
    (tmp_path / "evaluation").mkdir()
    write_json(tmp_path / "evaluation" / "summary.json", summary)
    record = StageRecord(node="evaluate", stage="evaluate", version="0", settings={}, inputs={}, code="")
    record = record.model_copy(update={"outputs": {"evaluation": "0" * 64}})
    show_node(out, node_named("evaluate"), record, Ledger(open_store(str(tmp_path))), lambda _: tmp_path / "evaluation")
    out.write()
    json_format.ParseDict(json.loads((tmp_path / "out.json").read_text()), pb.ExecutorOutput())
    assert (tmp_path / "s.md").read_text(encoding="utf-8") == score_page(summary)
