"""What lm-eval counts of one answer; the task files name these functions. `strict` and `lenient` are 1, 0 or NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar.evaluation.accuracy import lenient_match, strict_match

Verdicts = dict[str, float]


def gsm8k(document: Mapping[str, Any], results: Sequence[str]) -> Verdicts:
    """Whether the number after `####` is what the answer says, or the last number in it."""
    reference = str(document["answer"]).rsplit("####", 1)[-1].strip()
    strict, lenient = strict_match(results[0], reference, "system2"), lenient_match(results[0], reference)
    return {"strict": float(bool(strict)), "lenient": float(bool(lenient))}


def mmlu(document: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> Verdicts:
    """Whether the right letter is the likeliest; there is no laxer rule, so both verdicts are the same."""
    right = float(likeliest(results) == document["answer"])
    return {"strict": right, "lenient": right}


def likeliest(results: Sequence[tuple[float, bool]]) -> int:
    """Place of the likeliest choice, from (log-likelihood, whether it is the greedy one) of each."""
    return max(range(len(results)), key=lambda place: results[place][0])


def humaneval(document: Mapping[str, Any], results: Sequence[str]) -> Verdicts:
    """Nothing yet: code is judged by running it, and that is the sandbox's."""
    return {"strict": float("nan"), "lenient": float("nan")}
