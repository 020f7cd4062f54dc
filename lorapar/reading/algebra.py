"""Whether what is behind a number is algebra, and no unit: `3x - 2`, `4ac`, `12 sin x`, but not `3 kg` or `3 pears`."""

from __future__ import annotations

import re

from lorapar.reading.units import is_known, one_spelling

_FUNCTIONS = frozenset(
    [
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("log", "ln", "lg", "exp", "sqrt", "mod", "choose", "max", "pi", "theta", "alpha", "beta", "gamma", "delta"),
        *("lambda", "mu", "sigma", "tau", "phi", "psi", "omega", "epsilon"),
    ]
)
"""Names of mathematics, which are no units unless a longer word is behind: 12 sin x, but 12 log cabins."""
_LIKE_VARIABLES = frozenset(["ac", "kn", "ma", "mv", "nw", "pa", "pt", "qt", "ha", "ly"])
"""Units in small letters that are products of variables where they are glued to the number: 4ac."""
_VARIABLE = re.compile(r"[a-z](?:\^?[23])?")
_LATIN_OR_GREEK = re.compile(r"[A-Za-z\u0370-\u03ff]")
_IN_A_BASE = re.compile(r"in (?:binary|octal|decimal|hex|hexadecimal|base \w+)", re.IGNORECASE)
_LETTERS_OF_A_NAME = 3
_SHORT_WORDS = frozenset(
    ["sq", "cu", "a", "an", "is", "as", "at", "on", "so", "if", "it", "we", "he", "up", "be", "am", "do"]
)
"""Shorter words that may begin what is behind a number: 5 sq m, $9 an hour."""


def is_algebra(text: str, gap: str) -> bool:
    """Whether words or letters behind a number may be algebra, so that they are no unit and name nothing.

    Glued to the number (`gap` is empty) only a unit that is known is a unit. Behind a blank or a hyphen a name of three
    letters will do, too. Other scripts than Latin and Greek are no algebra.
    """
    words = text.split()
    if not _LATIN_OR_GREEK.search(text):
        return False
    if " of " not in text and is_known(one_spelling(text)):
        return not gap and text.rstrip(".") in _LIKE_VARIABLES
    if _has_variables(words) or _IN_A_BASE.fullmatch(text):
        return True
    first = words[0].strip(".")
    if _is_measure(first):
        return not gap and first in _LIKE_VARIABLES
    if not gap:
        return _LATIN_OR_GREEK.match(first) is not None and not _is_measure(" ".join(words[:2]))
    may_be_short = gap != "-" and len(words) > 1 and (first != first.lower() or first in _SHORT_WORDS)
    return not (_is_a_name(first) or may_be_short)


def is_variable(text: str) -> bool:
    """Whether letters glued to a number may be one variable, although there is a unit of that name: `6s^2`, `2t`."""
    return _VARIABLE.fullmatch(text) is not None


def begins_a_function(text: str) -> bool:
    """Whether words begin with a function or a constant of mathematics: `cos x`, `pi`."""
    words = text.split()
    return words[0].casefold() in _FUNCTIONS and _has_variables(words)


def _is_measure(word: str) -> bool:
    """Whether a word is a unit that is known, or a product of such units: `N\u00b7m`."""
    return all(part != "" and is_known(one_spelling(part)) for part in word.split("\u00b7"))


def _is_a_name(word: str) -> bool:
    """Whether a word is letters, some three of them in a row: `first-year`, but neither `x-y` nor `x^2`."""
    parts = re.split(r"[-/.'\u2019]", word)
    return all(part.isalpha() for part in parts if part) and max(map(len, parts)) >= _LETTERS_OF_A_NAME


def _has_variables(words: list[str]) -> bool:
    """Whether words behind a number have a function in them, a variable, or a power of what is no unit."""
    if all(map(_is_measure, words)) and not _VARIABLE.fullmatch(words[0]):
        return False  # N m
    for place, word in enumerate(words):
        behind = words[place + 1].strip(".") if place + 1 < len(words) else ""
        if word.casefold() in _FUNCTIONS and (not _is_a_name(behind) or behind in _FUNCTIONS):
            return True
        is_letter = re.fullmatch("[b-z\u0370-\u03ff]", word) is not None
        has_digits = re.search("[0-9\u00b2\u00b3]", word) is not None and not _is_measure(word)
        if has_digits or (is_letter and (place or not _is_measure(word))):
            return True
    return False
