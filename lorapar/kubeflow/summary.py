"""Pages in Markdown: a finished run's summary, also posted to a webhook, and the held-out scores of `evaluate`.

The summary is the outcome, what was promoted, what failed, and how long it took. A webhook gets it as
`{"text": ..., "outcome": ...}`, which chat services accept.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorapar.errors import BadInputError, UnreachableError
from lorapar.network import heed_proxies, network_cause, proxy_refusal, trust_authorities
from lorapar.report.formats import MODELS, NOTHING, interval, model_name, percent, system_name, systems_in
from lorapar.report.metrics import ASKED_MODELS, Benchmark, Change, benchmarks, changes
from lorapar.report.sources import Facts

_LONGEST_LINE = 400
OUTCOME = "lorapar outcome: "
"""The start of the log line with a run's outcome, for readers without access to the store."""
Figures = Mapping[str, Any]
_WEBHOOK_SECONDS = 20.0


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
        parts.append(f"Report, metrics and this page: `{summary.place}/`")
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


def score_table(figures: Figures) -> str:
    """A row for each evaluated model: strict (with interval) and lenient scores by system; empty without a model."""
    models = [model for model in ASKED_MODELS if figures.get(model)]
    if not models:
        return ""
    systems = systems_in(figures)
    head = "| held-out answers | " + " | ".join(f"{system_name(system)} strict | lenient" for system in systems) + " |"
    rows = [_row(model_name(model), figures[model], systems) for model in models]
    return "\n".join([head, "|---" * (1 + 2 * len(systems)) + "|", *rows])


def score_page(summary: Figures) -> str:
    """The page, from the summary.json of an evaluation."""
    facts = Facts(evaluation=summary)
    parts = ["# Held-out scores", score_table(summary), *map(_benchmark, benchmarks(facts))]
    moved = [f"- {_who(change)}: {change.sentence}" for change in changes(facts)]
    if moved:
        parts.append("## Changes\n\n" + "\n".join(moved))
    return "\n\n".join(parts) + "\n"


def _row(name: str, model: Figures, systems: Sequence[str]) -> str:
    cells = [name]
    for system in systems:
        bounds = model.get(f"{system}_interval")
        cells.append(_with(percent(model.get(f"{system}_accuracy")), interval(bounds, 0)))
        cells.append(percent(model.get(f"{system}_lenient_accuracy")))
    return "| " + " | ".join(cells) + " |"


def _benchmark(benchmark: Benchmark) -> str:
    """Answers that are code have no figure yet: `execute` runs them."""
    rows = [
        f"| {row.model} | {row.rows} | {_with(row.strict, row.strict_interval)} | {row.lenient} |"
        for row in benchmark.rows
    ]
    table = [f"## {benchmark.title}\n", "| model | rows | strict | lenient |", "|---|---|---|---|", *rows]
    return "\n".join([*table, *(f"\n{note}" for note in benchmark.notes)])


def _with(score: str, bounds: str) -> str:
    return score if bounds == NOTHING else f"{score} ({bounds})"


def _who(change: Change) -> str:
    return f"{system_name(change.system)}, {model_name(change.before)} to {model_name(change.after)}"


def post_summary(address: str, text: str, summary: RunSummary) -> None:
    """Post once; raises UnreachableError naming the host only, because such addresses often hold a token."""
    if not address.startswith(("https://", "http://")):
        raise BadInputError("webhook: expected an address that begins with https:// or http://")
    host = address.split("/")[2].rpartition("@")[2]
    body = json.dumps({"text": text, "outcome": summary.outcome()}, allow_nan=False).encode()
    trust_authorities()
    heed_proxies(address, socks=None)
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")  # noqa: S310
    try:
        # Not urlopen, which keeps the proxies and certificate authorities of its first call.
        with urllib.request.build_opener().open(request, timeout=_WEBHOOK_SECONDS):
            return
    except (urllib.error.URLError, OSError) as error:
        refused = proxy_refusal(error.code, address) if isinstance(error, urllib.error.HTTPError) else None
        cause = refused or network_cause(error, address)
        reason = cause if cause is not None else getattr(error, "reason", error)
        raise UnreachableError(
            f"webhook: {host} did not take the summary: {reason}; the report is in the store"
        ) from None
