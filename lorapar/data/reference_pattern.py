"""Find the short answer in a long one: by a regular expression, or in the last `\\boxed{}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lorapar.errors import BadInputError

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
        raise BadInputError(f"data.columns.reference_pattern: '{pattern}' is no regular expression: {error}") from None
    if not compiled.groups:
        raise BadInputError(
            f"data.columns.reference_pattern: '{pattern}' has no group; put parentheses around the short answer"
        )

    def find(answer: str) -> str:
        match = compiled.search(answer)
        return (match[1] or "").strip() if match else ""

    return find


def last_boxed(text: str) -> str:
    """What the last whole `\\boxed{...}` (or `\\fbox{...}`) of a text holds, braces inside it included.

    Without braces it holds a number or a letter (`\\boxed 5`).
    """
    found = ""
    for match in re.finditer(
        r"\\(?:boxed|fbox)(?:\s*(?P<open>\{)|(?P<word>\s*[0-9]+(?:\.[0-9]+)?|\s+[A-Za-z](?!\w)))", text
    ):
        end = _closing(text, match.end()) if match["open"] else None
        if match["word"]:
            found = match["word"].strip()
        elif end is not None:
            found = text[match.end() : end].strip()
    return found


def _closing(text: str, start: int) -> int | None:
    """The position that closes the brace opened before `start`."""
    depth = 1
    for place, sign in _braces(text, start):
        depth += 1 if sign == "{" else -1
        if not depth:
            return place
    return None


def _braces(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Braces from `start` on, but for those that are text (`\\{`)."""
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        if len(match[0]) == 1:
            yield match.start(), match[0]
