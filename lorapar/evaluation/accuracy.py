"""Whether a generated answer is right: one strict and one lenient rule, the same for every model that is compared.

Strict: what the answer says must be a reference, by the rule that the setting `answers` names (`lorapar.comparing`).
What the answer says is the text between the last complete `<answer>` tags. A System 2 answer without tags is wrong; a
System 1 answer without tags is taken whole, so that one word too many makes it wrong.

Lenient: for a number, the last number in the text, where it is no part of something else such as a range; for the
letter of a choice, the one that the text ends up with; for words, that they stand in the text as whole words. A text
that lists every possible word therefore passes: read the lenient score beside the strict one.

Of several references any is right.
"""

from __future__ import annotations

from lorapar.answers import References, extract_tagged
from lorapar.comparing import EXACT, AnswerRule
from lorapar.records import System


def strict_match(text: str, reference: References | None, system: System, rule: AnswerRule = EXACT) -> bool | None:
    """Whether the answer says exactly a reference; None where there is nothing to compare with."""
    if reference is None:
        return None
    said = extract_tagged(text)
    if said is None and system == "system1":
        said = text
    return said is not None and rule.is_answer(said, reference)


def lenient_match(text: str, reference: References | None, rule: AnswerRule = EXACT) -> bool | None:
    """Whether a reference can be found in the answer; None where there is nothing to compare with."""
    return None if reference is None else rule.is_found_in(text, reference)
