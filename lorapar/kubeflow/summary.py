"""One page about a finished run, as Markdown: the outcome, what was promoted, what failed, how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorapar.kubeflow.score_page import score_table
from lorapar.report.formats import MODELS

_LONGEST_LINE = 400
OUTCOME = "lorapar outcome: "
"""The start of the log line with a run's outcome, for readers without access to the store."""


@dataclass(frozen=True)
class RunSummary:
    """What is known of a run at its end."""

    run: str
    name: str
    succeeded: bool | None
    """None where the store could not be read: no other source is certain."""
    promoted: bool
    verdict: Mapping[str, Any] | None
    reached: Sequence[str]
    missing: Sequence[str]
    errors: Mapping[str, str]
    timings: Sequence[Mapping[str, Any]]
    figures: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    wanted: bool = False
    """Whether the gate asked for promotion: better, and promotion is on."""
    cancelled: bool = False
    unchanged: str = ""
    """The earlier equal run that succeeded, where this one ended after its plan."""
    problems: Sequence[str] = ()
    """Why this page is incomplete."""

    def outcome(self) -> dict[str, Any]:
        """The outcome for programs: outcome.json next to the report."""
        return {
            "run": self.run,
            "name": self.name,
            "succeeded": self.succeeded,
            "cancelled": self.cancelled,
            "better": self.verdict.get("better") if self.verdict else None,
            "promoted": self.promoted,
            "wanted": self.wanted,
            "unchanged": self.unchanged,
            "errors": dict(self.errors),
            "missing": list(self.missing),
        }


def summary_text(summary: RunSummary) -> str:
    """The page."""
    parts = [_head(summary), *_problems(summary), *_errors(summary), *_scores(summary.figures), *_tasks(summary)]
    if summary.place:
        parts.append(f"Report, figures and this page: `{summary.place}/`")
    return "\n\n".join(parts) + "\n"


def outcome_line(outcome: Mapping[str, Any]) -> str:
    """One line for the log of a task; the lines of a run's tasks add up."""
    return OUTCOME + json.dumps(dict(outcome), sort_keys=True)


def logged_outcome(log: str) -> dict[str, Any]:
    """The outcome that the lines of a log state; empty where they state none."""
    outcome: dict[str, Any] = {}
    for line in log.splitlines():
        if line.startswith(OUTCOME):
            try:
                value = json.loads(line.removeprefix(OUTCOME))
            except json.JSONDecodeError:
                continue
            outcome |= value if isinstance(value, dict) else {}
    return outcome


def flat_scores(figures: Mapping[str, Any]) -> dict[str, float]:
    """Held-out metrics of every model as flat numbers, as system.Metrics shows them."""
    scores = {}
    for model in MODELS:
        for name, value in (figures.get(model) or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                scores[f"{model}_{name}"] = float(value)
    return scores


def _head(summary: RunSummary) -> str:
    name = f" `{summary.name}`" if summary.name else ""
    if summary.cancelled:
        return f"# Cancelled: run{name}"
    if summary.succeeded is None:
        return f"# Unknown: run{name}"
    if not summary.succeeded:
        return f"# Failed: run{name}"
    if summary.unchanged:
        return f"# Nothing changed: run{name}\n\nRun `{summary.unchanged}` has done the same, and succeeded."
    if summary.promoted:
        return f"# Promoted: run{name}" + _reasons(summary.verdict)
    if summary.verdict is None:
        return f"# Finished: run{name}"
    better = "Better, not promoted" if summary.verdict.get("better") else "Not better"
    return f"# {better}: run{name}" + _reasons(summary.verdict)


def _reasons(verdict: Mapping[str, Any] | None) -> str:
    reasons = list(verdict.get("reasons", ())) if verdict else []
    return "\n\n" + "\n".join(f"- {plain(str(reason))}" for reason in reasons) if reasons else ""


def _problems(summary: RunSummary) -> list[str]:
    if not summary.problems:
        return []
    lines = "\n".join(f"- {plain(line)}" for line in summary.problems)
    return [f"## What could not be read or written\n\n{lines}"]


def _errors(summary: RunSummary) -> list[str]:
    if summary.errors:
        lines = "\n".join(f"- **{stage}**: {plain(line)}" for stage, line in summary.errors.items())
        return [f"## What failed\n\n{lines}"]
    if summary.succeeded is False and not summary.cancelled:
        return ["## What failed\n\nNo stage left a message: look at the log of the task that is red in Kubeflow."]
    return []


def _scores(figures: Mapping[str, Any]) -> list[str]:
    table = score_table(figures)
    return [f"## Scores\n\n{table}"] if table else []


def _tasks(summary: RunSummary) -> list[str]:
    rows = ["| task | seconds | |", "|---|---|---|"]
    for timing in summary.timings:
        reused = "from the cache" if timing["reused"] else ""
        rows.append(f"| {timing['node']} | {timing['seconds']:.1f} | {reused} |")
    rows += [f"| {name} | | not reached |" for name in summary.missing]
    return ["## Tasks\n\n" + "\n".join(rows)]


def plain(line: str) -> str:
    """Foreign text in one line, with its Markdown and HTML escaped."""
    kept = " ".join(line.split())[:_LONGEST_LINE]
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in kept)
