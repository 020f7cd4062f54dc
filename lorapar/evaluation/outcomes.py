"""Which rows each model got right, measure by measure: what an evaluation comes to for a gate."""

from __future__ import annotations

from pathlib import Path

from lorapar.records import Answer, read_records

Outcomes = dict[str, dict[str, dict[str, bool]]]
"""By measure (a system of the held-out rows, or a benchmark) and model, by row: whether the answer was right."""

ANSWERS = "answers.jsonl"


def read_outcomes(evaluation: Path, rule: str) -> Outcomes:
    """Outcomes by a rule (`strict` or `lenient`), from an evaluation's folder.

    Rows without a reference to compare with are left out. Raises BadInputError (file and line) where the
    answers cannot be read.
    """
    found: Outcomes = {}
    for answer in read_records(evaluation / ANSWERS, Answer):
        right = getattr(answer, rule)
        if right is not None:
            found.setdefault(answer.measure, {}).setdefault(answer.model, {})[answer.example_id] = right
    return found
