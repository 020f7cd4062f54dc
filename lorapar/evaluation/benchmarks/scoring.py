"""What lm-eval counts of one answer; the task files name these functions. `strict` and `lenient` are 1, 0 or NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lorapar.comparing import EXACT, AnswerRule
from lorapar.evaluation.accuracy import lenient_match, strict_match

Verdicts = dict[str, float]


def gsm8k(document: Mapping[str, Any], results: Sequence[str]) -> Verdicts:
    """Whether the number after `####` is what the answer says, or the last number in it."""
    return gsm8k_by(EXACT)(document, results)


def gsm8k_by(
    rule: AnswerRule, read: Callable[[str], str] = str
) -> Callable[[Mapping[str, Any], Sequence[str]], Verdicts]:
    """The same with answers compared by a rule, each as `read` gives it (`lorapar.config.tags`)."""

    def judged(document: Mapping[str, Any], results: Sequence[str]) -> Verdicts:
        reference = str(document["answer"]).rsplit("####", 1)[-1].strip()
        text = read(results[0])
        strict = strict_match(text, reference, "system2", rule)
        return {"strict": float(bool(strict)), "lenient": float(bool(lenient_match(text, reference, rule)))}

    return judged


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
