"""What came out, in words: never more certain than the figures."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from lorapar.report.metrics import Change, scores
from lorapar.report.outcome import outcome_chart, summary_sentence, trade_sentences
from lorapar.report.sources import Facts, ReportSources, read_facts

MINUS = "\u2212"


def change(system: str, difference: float, p_value: float, wins: int = 5, losses: int = 2) -> Change:
    """A change during RL."""
    bounds = (difference - 0.1, difference + 0.1)
    return Change(system, "after_sft", "after_rl", difference, bounds, p_value, wins, losses, 0.95)


def test_a_loss_within_noise_is_not_called_none() -> None:
    message = " ".join(trade_sentences([change("system2", 0.4, 0.0001, 30, 3), change("system1", -0.06, 0.5)]))
    assert "System 2 rose by 40.0 points (30 rows won, 3 lost, p < 0.001)" in message
    assert f"System 1 changed by {MINUS}6.0 points, which is within noise" in message
    assert f"runs from {MINUS}16.0 to +4.0 points, so a real loss inside it cannot be ruled out" in message


def test_a_certain_loss_is_called_one() -> None:
    message = " ".join(trade_sentences([change("system2", 0.01, 0.9), change("system1", -0.2, 0.001, 1, 12)]))
    assert "System 1 fell by 20.0 points (1 row won, 12 lost, p = 0.001)" in message
    assert "RL cost System 1 20.0 points and System 2 has nothing certain to show for it" in message


def test_the_run_in_one_sentence() -> None:
    moved = [change("system1", 0.0, 1.0, 0, 0), change("system2", -0.25, 0.002, 1, 15)]
    assert summary_sentence(moved) == "During RL, System 2 went down by 25.0 points; System 1 changed on no row."
    assert summary_sentence(moved[:1]) is None


def test_bars_are_as_high_as_the_scores(sources: ReportSources) -> None:
    found = scores(read_facts(sources))
    drawing = outcome_chart(found, "system2")
    assert drawing is not None
    root = ElementTree.fromstring(drawing)  # noqa: S314
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in root.iter(f"{space}rect") if re.match(r"bar\b(?!-)", bar.get("class", ""))]
    heights = [float(bar.get("height", 0)) for bar in bars]
    strict = [score.strict or 0.0 for score in found if score.system == "system2"]
    assert [height / max(heights) for height in heights] == pytest.approx(
        [share / max(strict) for share in strict], abs=0.002
    )
    whiskers = [line for line in root.iter(f"{space}line") if line.get("class") == "whisker"]
    assert len(whiskers) == 3 * 2 * 3


def test_a_system_without_references_has_no_bars() -> None:
    figures = {"system1_rows": 3, "system1_accuracy": None, "system1_interval": None, "system1_loss": 2.0}
    found = scores(Facts(evaluation={"base": figures}))
    assert [score.loss for score in found] == [2.0]
    assert outcome_chart(found, "system1") is None
