"""What LaTeX's `\\boxed{}` holds: the answer of a solution, or several of them as a list."""

from __future__ import annotations

import re
from fractions import Fraction

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
_NAME = re.compile(r"([a-zA-Z]+)(?:_(?:\w|\{\w+\}))?\s*=\s*\Z")
_LONGEST_NAME = 20
_LONGEST_VALUE = 100
_BLANKS = re.compile(r"\s|\\[,;:! ]|~")
_SIGN_BEFORE = re.compile(r"(?<![\w)}\]])[-+]")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[A-Z](?![a-zA-Z])")
_NUMBER = re.compile(
    r"(?<![0-9.^_])(?<![\^_]\{)(?:"
    r"\\[dtc]?frac(?:\{(?P<top>[0-9]+)\}\{(?P<below>0*[1-9][0-9]*)\}|(?P<one>[0-9])(?P<other>[1-9]))"
    r"|(?P<over>[0-9]+/0*[1-9][0-9]*)(?![0-9.])|(?P<whole>[0-9]+)(?![0-9.])|(?P<decimal>[0-9]*\.[0-9]+))"
)
"""A number in a box, but none behind `^` or `_`, where it is an exponent or the base of another number."""


def last_boxed(text: str) -> str:
    """What the last whole `\\boxed{...}` (or `\\fbox{...}`) of a text holds, braces inside it included.

    Of several that a comma, `and` or `or` joins, it is a list if they have one name or none and are written in one
    form: `x=\\boxed{2}` or `x=\\boxed{3}` are `2, 3`. Otherwise, the last counts: `\\boxed{1/2}` or `\\boxed{0.5}` may
    be one value, and `r=\\boxed{5}`, `A=\\boxed{25}` are two results. Where no box has braces, it is a number or a
    letter by itself (`\\boxed 5.`).
    """
    boxes = _boxes(text)
    if not boxes:
        bare = [number or letter for number, letter in _BARE.findall(text)]
        return bare[-1] if bare else ""
    first = len(boxes) - 1
    while first and _are_joined(text, boxes[first - 1][2] + 1, boxes[first][0]):
        first -= 1
    held = [inside for _, start, end in boxes[first:] if (inside := text[start:end].strip())]
    if len(held) < 2 or not _have_one_name(text, [begin for begin, _, _ in boxes[first:]]) or not _have_one_form(held):
        return held[-1] if held else ""
    return ", ".join({_value(one): one for one in held}.values())


def _are_joined(text: str, start: int, end: int) -> bool:
    return end - start <= _LONGEST_GAP and _JOINED.fullmatch(text[start:end]) is not None


def _have_one_name(text: str, begins: list[int]) -> bool:
    """Whether boxes are all `x = ...`, or have no name; one without a name has that of the first (`x = 2 or 3`)."""
    found = [_NAME.search(text[max(0, begin - _LONGEST_NAME) : begin]) for begin in begins]
    names = [None if one is None else one[1] for one in found]
    return all(name in (None, names[0]) for name in names)


def _have_one_form(held: list[str]) -> bool:
    """Whether texts differ only in their signs, capital letters by themselves, and whole numbers and fractions.

    Decimals differ among themselves. So `2` and `1/2` have one form; `1/2` and `0.5`, or `5` and `5\\pi`, have two.
    """
    return max(map(len, held)) <= _LONGEST_VALUE and len(set(map(_form, held))) == 1


def _form(held: str) -> str:
    text = _NUMBER.sub(lambda found: "0.0" if found["decimal"] else "0", _BLANKS.sub("", held))
    return _LETTER.sub("A", _SIGN_BEFORE.sub("", text)).replace("+", "-")


def _value(held: str) -> str:
    """A text with its numbers in one form: `003` as 3, and `2/4` as 1/2."""

    def exact(found: re.Match[str]) -> str:
        parts = [one for one in found.groups() if one]
        return str(Fraction("/".join(parts)))

    return _NUMBER.sub(exact, _BLANKS.sub("", held)).removeprefix("+")


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
