"""Other forms of one answer in LaTeX: lists, inequalities, repeating decimals, units behind expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lorapar.answers import pair_of
from lorapar.quantities import quantity_of
from lorapar.reading.units import is_known, one_spelling, same_unit

REPEATING = re.compile(r"(?<![0-9.])([0-9]{0,9})\.([0-9]{0,9})\\overline\s*\{([0-9]{1,9})\}")
r"""`0.\overline{3}`."""
_OR_AND = re.compile(r",?\s+(?:or|and)\s+")
_HAS_A_VALUE = re.compile(r"[0-9\\]")
_MEMBER = re.compile(r"\\?([a-zA-Z]+)\s*=\s*([^=<>]+)")
_PLUS_MINUS = re.compile(r"\\pm\s*([^\\+\-\s,]+|\\(?:sqrt|frac)[^\s,+-]*)")
_BELOW = r"<|\\le(?:q|qslant)?(?![a-zA-Z])|\u2264"
_ABOVE = r">|\\ge(?:q|qslant)?(?![a-zA-Z])|\u2265"
_BOUND = r"[^<>\u2264\u2265,a-zA-Z\\]*(?:\\(?:frac|sqrt|pi|infty)[^<>\u2264\u2265,a-zA-Z\\]*)*"
_BETWEEN = re.compile(rf"({_BOUND})({_BELOW})\s*[a-zA-Z]\s*({_BELOW})({_BOUND})")
_ONE_SIDED = re.compile(rf"[a-zA-Z]\s*({_BELOW}|{_ABOVE})({_BOUND})")
_SIDED_FIRST = re.compile(rf"({_BOUND})({_BELOW}|{_ABOVE})\s*[a-zA-Z]")
_INTERVAL = re.compile(r"[(\[][^()\[\]]+,[^()\[\]]+[)\]]")
_UNIT_BEHIND = re.compile(
    r"(?P<value>(?=.*[\\\u03c0\u221a]).*[0-9}\u03c0i])\s+"
    r"(?P<unit>(?:(?:square|cubic|sq\.?|cu\.?)\s+)?(?:units?|[a-z]{3,}|cm|mm|km|kg|ft)(?:\s?(?:\^\s?\{?[23]\}?|[\u00b2\u00b3]))?)"
)
_BRACED = re.compile(r"(?<=[_^])\s*\{\s*(\w)\s*\}")
_BLANK = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_OF_LATEX = re.compile(r"[\\_^]")


@dataclass(frozen=True)
class Measured:
    """Two expressions whose units were taken off."""

    answer: str
    reference: str
    same_unit: bool
    """Whether the units are, or can be, one; so where only one side has a unit."""


def in_full(found: re.Match[str]) -> str:
    """A repeating decimal as a fraction."""
    whole, before, again = found[1] or "0", found[2], found[3]
    value = int(whole + before) + Fraction(int(again), 10 ** len(again) - 1)
    value /= 10 ** len(before)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def alike(answer: str, reference: str) -> tuple[str, str]:
    """Both sides in one form, where one is a list, or an interval, and the other says so in another way."""
    if _is_list(answer) and _is_list(reference):
        return _listed(answer, reference), _listed(reference, answer)
    return _as_interval(answer, reference), _as_interval(reference, answer)


def is_same_text(answer: str, reference: str) -> bool:
    """Whether two texts of LaTeX differ in blanks and in braces around one character only."""
    if not (_OF_LATEX.search(answer) and _OF_LATEX.search(reference)):
        return False
    return _without_blanks(answer) == _without_blanks(reference)


def without_units(answer: str, reference: str) -> Measured | None:
    """Two expressions without the unit behind them: `10\\sqrt{3} cm`; None where no expression has one."""
    (given, its), (wanted, other) = _unit_off(answer), _unit_off(reference)
    if its is None and other is None:
        return None
    return Measured(given, wanted, its is None or other is None or same_unit(its, other))


def _unit_off(text: str) -> tuple[str, str | None]:
    found = None if quantity_of(text) is not None else _UNIT_BEHIND.fullmatch(text)
    if found is None:
        return text, None
    unit = one_spelling(re.sub(r"\^\s?\{?([23])\}?", r"^\1", found["unit"]))
    return (found["value"], unit) if is_known(unit) or unit.startswith("unit") else (text, None)


def _without_blanks(text: str) -> str:
    return _BLANK.sub("", _BRACED.sub(r"\1", text))


def _is_list(text: str) -> bool:
    """Whether a text is several values side by side, in no brackets."""
    if pair_of(text) is not None or _PLUS_MINUS.fullmatch(text):
        return True
    has_marks = ", " in text or _joins_values(text) or text.count(",") > 1
    return has_marks and quantity_of(text) is None and text[:1] not in "([\\{"


def _joins_values(text: str) -> bool:
    """Whether `or` and `and` stand between values: `2 or 3`, but not `p or q`, which is not `p and q`."""
    members = _OR_AND.split(text)
    return len(members) > 1 and all(map(_HAS_A_VALUE.search, members))


def _listed(text: str, other: str) -> str:
    """A list with commas and blanks, and without the name of a variable that the other one does not have."""
    if (pair := pair_of(text)) is not None:
        return ", ".join(pair)
    if (both := _PLUS_MINUS.fullmatch(text)) is not None:
        return f"{both[1]}, -{both[1]}"
    if _joins_values(text):
        text = _OR_AND.sub(", ", text)
    named = [_MEMBER.fullmatch(member.strip()) for member in text.split(",")]
    if "=" not in other and all(named) and len({one[1] for one in named if one}) == 1:
        return ", ".join(one[2].strip() for one in named if one)
    return text


def _as_interval(text: str, other: str) -> str:
    """An inequality in one variable as the interval that it says, where the other side is an interval."""
    if not _INTERVAL.search(other) or "=" in text:
        return text
    if (found := _BETWEEN.fullmatch(text)) and found[1].strip() and found[4].strip():
        return (
            f"{'(' if found[2] == '<' else '['}{found[1].strip()},{found[4].strip()}{')' if found[3] == '<' else ']'}"
        )
    if (found := _ONE_SIDED.fullmatch(text)) and found[2].strip():
        return _ray(found[1], found[2].strip(), is_above=re.match(_ABOVE, found[1]) is not None)
    if (found := _SIDED_FIRST.fullmatch(text)) and found[1].strip():
        return _ray(found[2], found[1].strip(), is_above=re.match(_BELOW, found[2]) is not None)
    return text


def _ray(sign: str, bound: str, *, is_above: bool) -> str:
    """The numbers on one side of a bound."""
    is_open = sign in "<>"
    if is_above:
        return f"{'(' if is_open else '['}{bound},\\infty)"
    return f"(-\\infty,{bound}{')' if is_open else ']'}"
