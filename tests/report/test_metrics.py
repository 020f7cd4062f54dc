"""What metrics.json holds: the keys programs rely on, and never NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path

from lorapar.report.metrics import without_nan
from lorapar.report.page import write_report
from lorapar.report.sources import ReportSources
from lorapar.report.terminal import warning_lines


def test_the_keys_of_a_whole_run(sources: ReportSources, tmp_path: Path) -> None:
    write_report(sources, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["schema_version"] == 1
    for model in ("base", "after_sft", "after_rl"):
        for system in ("system1", "system2"):
            assert 0 <= metrics[model][f"{system}_accuracy"] <= 1
            low, high = metrics[model][f"{system}_interval"]
            assert low <= metrics[model][f"{system}_accuracy"] <= high
    assert set(metrics["partition"]["active_fraction"]) == {"system1", "system2", "sft", "rl"}
    assert metrics["partition"]["active_fraction"]["rl"] < metrics["partition"]["active_fraction"]["system2"]
    assert 0 < metrics["partition"]["jaccard"] < 1
    assert metrics["changes"]["system1_base_to_after_sft"]["verdict"] == "up"
    assert metrics["votes"]["calls_saved"] > 0
    assert metrics["votes"]["teacher_is_base"] is True
    votes = metrics["votes"]
    assert set(votes["teachers"]) == {"examples-first", "question-first", "terse"}
    assert 0 < votes["teachers"]["terse"]["system1_share"] < 1
    assert votes["agreement"]["raw"][0][1] == votes["agreement"]["raw"][1][0]
    assert votes["tokens_saved"] > 0
    assert metrics["timings"][0]["node"] == "plan"
    assert metrics["data"]["overlap"] == {"held-out rows": 1}
    assert metrics["data"]["overlap_left_out"] is True
    assert metrics["data"]["rows"]["train"] > metrics["data"]["rows"]["heldout"] > 0
    (left_out,) = [one for one in metrics["omissions"] if one["stage"] == "sft"]
    assert (left_out["count"], left_out["total"], left_out["much"]) == (3, 5, True)


def test_what_was_left_out_stands_in_the_report_and_much_of_it_at_the_top(
    sources: ReportSources, tmp_path: Path
) -> None:
    write_report(sources, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "; left out: 1 training row with questions that stand in held-out rows" in page
    line = "sft: 3 of 5 rows left out: they are &lt;long&gt;; raise sft.max_length"
    assert page.index("Half or more was left out or cut") < page.index(line) < page.index("What was left out or cut")
    assert warning_lines(tmp_path / "metrics.json") == [line.replace("&lt;", "<").replace("&gt;", ">")]


def test_what_did_not_happen_is_null(tmp_path: Path) -> None:
    write_report(ReportSources(), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    nothing = ("base", "after_sft", "after_rl", "changes", "partition", "votes", "timings")
    assert {key: metrics[key] for key in nothing} == dict.fromkeys(nothing)


def test_nan_becomes_null() -> None:
    assert without_nan({"a": [math.nan, 1.0], "b": {"c": -math.inf}, "d": 2}) == {
        "a": [None, 1.0],
        "b": {"c": None},
        "d": 2,
    }
