"""Whether a generated answer is right: one strict and one lenient rule, the same for every model that is compared.

Strict: what the answer says must equal the reference, as numbers where both are numbers, else as words (case, white
space and a closing full stop do not count; `lorapar.answers.same_answer`). What the answer says is the text between
the last complete `<answer>` tags. A System 2 answer without tags is wrong; a System 1 answer without tags is taken
whole, so that one word too many makes it wrong.

Lenient: for a number, the last number in the text; for words, that they stand in the text as whole words. A text that
lists every possible word therefore passes: read the lenient score beside the strict one.
"""

from __future__ import annotations

import re

from lorapar.answers import as_number, extract_tagged, last_number, same_answer
from lorapar.records import System


def strict_match(text: str, reference: str | None, system: System) -> bool | None:
    """Whether the answer says exactly the reference; None where there is nothing to compare with."""
    if reference is None:
        return None
    said = extract_tagged(text)
    if said is None and system == "system1":
        said = text
    return said is not None and same_answer(said, reference)


def lenient_match(text: str, reference: str | None) -> bool | None:
    """Whether the reference can be found in the answer; None where there is nothing to compare with."""
    if reference is None:
        return None
    if as_number(reference) is not None:
        number = last_number(text)
        return number is not None and same_answer(number, reference)
    words = r"\s+".join(re.escape(word) for word in reference.strip().removesuffix(".").split())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None
