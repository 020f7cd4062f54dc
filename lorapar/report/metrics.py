"""metrics.json: what a run measured, for programs. Its keys are stable; a metric that is not there is null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.records import Omission
from lorapar.report.formats import MODELS
from lorapar.report.scores import changes, verdict_metrics
from lorapar.report.sources import Facts, overlap_of

SCHEMA_VERSION = 1
_VOTES = (
    *("calls", "calls_saved", "decided_early_share", "tokens", "tokens_saved", "edited_rows"),
    *("krippendorff_alpha", "first_round_krippendorff_alpha", "agreement", "teacher_is_base", "without_calibration"),
)
_SHARES = "shares"
"""How often a teacher said which of the named systems; of the two `system1_share` tells it."""
_TEACHER = ("round", "calls", "tokens", "system1_share", "gold_accuracy", "gold_confusion")


def metrics_of(facts: Facts) -> dict[str, Any]:
    """Everything in metrics.json; parts of the run that did not happen are null."""
    evaluation = facts.evaluation or {}
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": facts.config.name if facts.config else None,
        "seed": facts.config.seed if facts.config else None,
        "model": facts.config.model.name if facts.config else None,
        **{model: evaluation.get(model) for model in (*MODELS, "incumbent")},
        "changes": {f"{c.system}_{c.before}_to_{c.after}": _change(c) for c in changes(facts)} or None,
        "verdict": verdict_metrics(facts),
        "data": _data(facts),
        "partition": _partition(facts),
        "votes": _votes(facts),
        "omissions": [
            {"stage": stage, **one.model_dump(), "line": one.line, "much": one.is_much}
            for stage, one in facts.omissions
        ],
        "timings": list(facts.timings) if facts.timings else None,
    }
    finite: dict[str, Any] = without_nan(document)
    return finite


def without_nan(value: Any) -> Any:
    """The same value with null in place of NaN and infinities, which no JSON reader takes."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _omission(stage: str, one: Omission) -> dict[str, Any]:
    return {"stage": stage, **one.model_dump(), "line": one.line, "much": one.is_much}


def _change(change: Any) -> dict[str, Any]:
    return {
        "difference": change.difference,
        "interval": list(change.bounds),
        "p_value": change.p_value,
        "wins": change.wins,
        "losses": change.losses,
        "verdict": change.verdict,
    }


def _data(facts: Facts) -> dict[str, Any] | None:
    """Rows by split and source, and those that share their question with what is evaluated, by what evaluates it."""
    if facts.data is None:
        return None
    compared = overlap_of(facts)
    return {
        "rows": {name: split.get("rows") for name, split in (facts.data.get("splits") or {}).items()},
        "sources": facts.data.get("sources"),
        "overlap": compared.counts,
        "overlap_left_out": compared.left_out,
    }


def _partition(facts: Facts) -> dict[str, Any] | None:
    if facts.partition is None:
        return None
    single = {name: value for name, value in facts.partition.items() if isinstance(value, int | float)}
    named = facts.partition.get("systems")
    parts = {name: name for name in (*SYSTEMS, "sft", "rl")} if named is None else {name: name for name in named}
    return {
        "active_fraction": {name: single.pop(f"{key}_active_fraction", None) for name, key in parts.items()},
        **single,
    }


def _votes(facts: Facts) -> dict[str, Any] | None:
    if facts.voting is None:
        return None
    gold, rows = facts.voting.get("gold") or {}, facts.voting.get("rows") or {}
    return {
        "rows": rows.get("voted"),
        "train_rows": facts.voting.get("train_rows"),
        **{name: facts.voting.get(name) for name in _VOTES},
        "gold_accuracy": gold.get("accuracy"),
        "gold_confusion": gold.get("confusion"),
        "failed_teachers": sorted(facts.voting.get("failed") or {}),
        "teachers": {
            name: {figure: about.get(figure) for figure in (*_TEACHER, *((_SHARES,) if _SHARES in about else ()))}
            for name, about in (facts.voting.get("teachers") or {}).items()
        },
    }
