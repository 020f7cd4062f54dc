"""Find the short answer in a long one: by a regular expression, or in the last `\\boxed{}`."""

from __future__ import annotations

import re
from collections.abc import Callable

from lorapar.errors import BadInputError
from lorapar.reading.boxes import last_boxed

GSM8K = r"####\s*(\S.*?)\s*(?:\n|$)"
ANSWER_IS = r"(?is)\A(?:.*\b)?the (?:final )?answer is:?\s*(\S[^\n]*?)\.?\s*\Z"
BOXED = "boxed"


def reference_finder(pattern: str) -> Callable[[str], str]:
    """A function that finds the short answer: by a regular expression with a group, or in the last `\\boxed{}`.

    It returns an empty text where there is none. Raises BadInputError for patterns that cannot work.
    """
    if pattern == BOXED:
        return last_boxed
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInputError(
            f"data.columns.reference_pattern: '{pattern}' is not a regular expression: {error}"
        ) from None
    if not compiled.groups:
        raise BadInputError(
            f"data.columns.reference_pattern: '{pattern}' has no group; put parentheses around the short answer"
        )

    def find(answer: str) -> str:
        match = compiled.search(answer)
        return (match[1] or "").strip() if match else ""

    return find
