"""What LaTeX's `\\boxed{}` holds: the answer of a solution, or several of them as a list."""

from __future__ import annotations

import re

_BARE = re.compile(
    r"\\(?:boxed|fbox)(?:\s*([0-9]+(?:\.[0-9]+)?)(?=\s*(?:[.;$)](?![0-9])|\\[\])]|\Z))"
    r"|\s+([A-Za-z])(?=\s*(?:[.$)]|\\[\])]|\Z)))"
)
"""A box without braces whose number or letter nothing goes on behind."""

_SIGNS = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*)?\{|\\.|\}", re.DOTALL)
"""Braces, and characters behind a backslash, which are text (`\\{`)."""
_LONGEST_GAP = 40
_JOINED = re.compile(
    r"\s*\.?(?:\$|\\\)|\\\]|\s|\\q?quad|\\[,; ]|~)*"
    r"(?:,|,?\s*(?:\\(?:text|mathrm|textrm|mbox)\{)?\s*(?:and|or)\s*\}?)"
    r"(?:\$|\\\(|\\\[|\s|\\q?quad|\\[,; ]|~|[a-zA-Z](?:_\w)?\s*=\s*)*"
)
"""What may stand between two boxes of one list: `$ and $x = `."""


def last_boxed(text: str) -> str:
    """What the last whole `\\boxed{...}` (or `\\fbox{...}`) of a text holds, braces inside it included.

    Of several that a comma, `and` or `or` joins, it is a list: `\\boxed{2}` and `\\boxed{3}` are `2, 3`. Where no box
    has braces, it is a number or a letter by itself (`\\boxed 5.`).
    """
    boxes = _boxes(text)
    if not boxes:
        bare = [number or letter for number, letter in _BARE.findall(text)]
        return bare[-1] if bare else ""
    last = len(boxes) - 1
    while last and _are_joined(text, boxes[last - 1][2] + 1, boxes[last][0]):
        last -= 1
    return ", ".join(dict.fromkeys(text[start:end].strip() for _, start, end in boxes[last:]))


def _are_joined(text: str, start: int, end: int) -> bool:
    return end - start <= _LONGEST_GAP and _JOINED.fullmatch(text[start:end]) is not None


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Where each closed box begins, and where its content begins and ends, in the order of their beginnings."""
    found, opened = [], []
    for sign in _SIGNS.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if sign[0].endswith("{") and sign[0] != "\\{":
            opened.append((sign["box"] is not None, sign.start(), sign.end()))
        elif sign[0] == "}" and opened:
            is_box, begin, start = opened.pop()
            if is_box:
                found.append((begin, start, sign.start()))
    return sorted(found)
