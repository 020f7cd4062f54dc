"""Find the short answer in a long one: by a regular expression, or in the last `\\boxed{}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lorapar.errors import BadInputError

GSM8K = r"####\s*(\S.*?)\s*(?:\n|$)"
ANSWER_IS = r"(?is)\A(?:.*\b)?the (?:final )?answer is:?\s*(\S[^\n]*?)\.?\s*\Z"
BOXED = "boxed"
_BARE = re.compile(
    r"\\(?:boxed|fbox)(?:\s*([0-9]+(?:\.[0-9]+)?)(?=\s*(?:[.;$)](?![0-9])|\\[\])]|\Z))"
    r"|\s+([A-Za-z])(?=\s*(?:[.$)]|\\[\])]|\Z)))"
)
"""A box without braces whose number or letter nothing goes on behind."""


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

    Where no box has braces, it is a number or a letter by itself (`\\boxed 5.`).
    """
    found, braced = "", False
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text):
        end = _closing(text, match.end())
        if end is not None:
            found, braced = text[match.end() : end].strip(), True
    bare = [] if braced else [number or letter for number, letter in _BARE.findall(text)]
    return bare[-1] if bare else found


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
