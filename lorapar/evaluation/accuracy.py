"""Whether a generated answer is right: one strict and one lenient rule, the same for every model that is compared.

Strict: what the answer says must be a reference, by the rule that the setting `answers` names (`lorapar.comparing`).
What the answer says is the text between the last complete `<answer>` tags. A System 2 answer without tags is wrong; a
System 1 answer without tags is taken whole, so that one word too many makes it wrong.

Lenient: for a number, the last number in the text, where it is no part of something else such as a range; for the
letter of a choice, the one that the text ends up with; for words, that they are in the text as whole words. A text
that lists every possible word therefore passes: read the lenient score beside the strict one.

Of several references any is right. `read_outcomes` reads from an evaluation which rows each model got right.
"""

from __future__ import annotations

from pathlib import Path

from lorapar.answers import References, extract_tagged
from lorapar.comparing import EXACT, AnswerRule
from lorapar.records import Answer, System, read_records


def strict_match(text: str, reference: References | None, system: System, rule: AnswerRule = EXACT) -> bool | None:
    """Whether the answer says exactly a reference; None where there is nothing to compare with."""
    if reference is None:
        return None
    given = extract_tagged(text)
    if given is None and system == "system1":
        given = text
    return given is not None and rule.is_answer(given, reference)


def lenient_match(text: str, reference: References | None, rule: AnswerRule = EXACT) -> bool | None:
    """Whether a reference can be found in the answer; None where there is nothing to compare with."""
    return None if reference is None else rule.is_found_in(text, reference)


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
