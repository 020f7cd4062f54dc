"""The evidence of a search: every trial, how far it came and why it ended, and what to say where none was finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config.tune import TuneConfig
from lorapar.errors import BadInputError, ExitCode, LoraparError
from lorapar.study import trials
from lorapar.study.report import Rows
from lorapar.study.runner import CellsFailedError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BY_SWEEP, BY_LOSS = "ruled out by the sweep", "ruled out by its held-out loss"
"""How the reason of a trial that ended early begins."""
_FINISHED = "finished"


def trial_rows(tune: TuneConfig, shown: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """A row for each trial."""
    return [_row(trial, tune) for trial in shown]


def _row(trial: FrozenTrial, tune: TuneConfig) -> dict[str, Any]:
    looks = [trials.look_of(trial, place) for place in range(len(tune.looks))]
    last = looks[-1]
    return {
        "trial": trial.number,
        **{key: trial.params.get(key) for key in tune.space},
        **{
            f"loss after {share:.0%}": look["loss"] if look else None
            for share, look in zip(tune.looks, looks, strict=True)
        },
        "right": last["accuracy"] if last else None,
        "looks": sum(look is not None for look in looks),
        "ended": _ended(trial),
    }


def _ended(trial: FrozenTrial) -> str:
    if trial.state.name == "COMPLETE":
        return _FINISHED
    if (failure := trials.failure_of(trial)) is not None:
        return f"failed: {failure['line']}"
    return str(trial.user_attrs.get("why", "interrupted, and made again"))


def trials_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV."""
    made = io.StringIO()
    writer = csv.DictWriter(made, list(rows[0]) if rows else ["trial"])
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def search_report(tune: TuneConfig, rows: Sequence[dict[str, Any]], best: FrozenTrial | None) -> str:
    """The report as Markdown."""
    heads = tuple(rows[0]) if rows else ("trial",)
    lines = [tuple("–" if value is None else _rounded_text(value) for value in row.values()) for row in rows]  # noqa: RUF001
    paragraphs = [
        f"# {tune.name}",
        f"{len(rows)} trials on {tune.measure}: {_count(rows, _FINISHED)} trained to the end, "
        f"{_count(rows, BY_LOSS)} ruled out by held-out loss, {_count(rows, BY_SWEEP)} by the sweep before anything "
        f"was trained, {_count(rows, 'failed')} failed.",
        *_found(best),
        Rows(heads, lines, tuple(range(len(heads) - 1))).markdown(),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _count(rows: Sequence[dict[str, Any]], how: str) -> int:
    return sum(row["ended"].startswith(how) for row in rows)


def _found(best: FrozenTrial | None) -> list[str]:
    if best is None:
        return [
            "No settings are found: no trial was trained to the end, so there is no best.yaml. The column `ended` says "
            "why; the same command tries again what failed."
        ]
    found = ", ".join(f"{key} {_rounded_text(value)}" for key, value in best.params.items())
    return [
        f"Best: trial {best.number} ({found}). `lorapar run --config best.yaml` trains with it.",
        "It is the best of several on the same held-out rows, which flatters it. Where it is not what was given "
        "and there are `confirm_seeds`, `confirm/report.md` compares the two on other seeds.",
    ]


def nothing_found(tune: TuneConfig, shown: Sequence[FrozenTrial], report: Path) -> LoraparError | None:
    """The error of a search without settings: with the exit code of the first trial that failed, if any did."""
    rows = trial_rows(tune, shown)
    if _count(rows, _FINISHED):
        return None
    failures = [(trial.number, failure) for trial in shown if (failure := trials.failure_of(trial)) is not None]
    none = f"no settings found, {len(rows)} trials and none trained to the end"
    if failures:
        number, first = failures[0]
        return CellsFailedError(
            f"{none}: {len(failures)} failed (trial {number}: {first['line']}); the same command tries them again; "
            f"report: {report}",
            ExitCode(first["exit_code"]),
        )
    why = f"the sweep ruled out {_count(rows, BY_SWEEP)}, whose SFT or RL would train less than least_active"
    return BadInputError(
        f"{none}: {why} ({tune.least_active:.2%}) of the elements; ask for more --trials, or with another --out for "
        f"a space with larger theta, or a smaller least_active; report: {report}"
    )


def _rounded_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
