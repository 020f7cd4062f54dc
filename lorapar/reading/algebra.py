"""Whether what is behind a number is algebra, and no unit: `3x - 2`, `4ac`, `12 sin x`, but not `3 kg` or `3 pears`."""

from __future__ import annotations

import re
from itertools import pairwise

from lorapar.reading.units import is_known, one_spelling

_FUNCTIONS = frozenset(
    [
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("log", "ln", "lg", "exp", "sqrt", "mod", "choose", "max", "pi", "theta", "alpha", "beta", "gamma", "delta"),
        *("lambda", "mu", "sigma", "tau", "phi", "omega", "epsilon"),
    ]
)
"""Names of mathematics, which are no units unless a longer word is behind: 12 sin x, but 12 log cabins and 32 psi."""
_LIKE_VARIABLES = frozenset(["ac", "kn", "ma", "mv", "nw", "pa"])
"""Units in small letters that are products of variables where they are glued to the number: 4ac."""
_LIKE_PRODUCTS = frozenset(
    [
        *("hp", "px", "cc", "dm", "kr", "ct", "bp", "ea", "pp", "yo", "ev", "wh", "ah", "iu", "zl", "em"),
        *("lm", "lx", "kl", "gr", "sq", "xl", "lt"),
    ]
)
"""Two small letters that are no product of variables where they are glued to the number: 5hp."""
_LETTER = r"[a-z\u03b1-\u03c9]"
_VARIABLE = re.compile(r"[a-z](?:\^?[23])?")
_UNIT_LETTER = re.compile(r"[ghlms]|m\^?[23]")
_POWER = re.compile(
    rf"{_LETTER}(?:\^?[23]|[\u00b2\u00b3])|(?=.*[\^\u00b2\u00b3])(?:{_LETTER}(?:\^[23]|[\u00b2\u00b3])?){{2,3}}"
)
_OPERATOR = re.compile("[-/\u00b7]")
_TWO_LETTERS = re.compile(rf"{_LETTER}{{2}}")
_FUNCTION_OF = re.compile("(?:sin|cos|tan|cot|csc|log|ln)[xyz\u03b8]")
_HEXADECIMAL = re.compile("x[0-9A-F]+")
_LATIN_OR_GREEK = re.compile(r"[A-Za-z\u0370-\u03ff]")
_IN_A_BASE = re.compile(r"in (?:binary|octal|decimal|hex|hexadecimal|base \w+)", re.IGNORECASE)
_LETTERS_OF_A_NAME = 3
_LONGEST_RUN = 5
_SHORT_WORDS = frozenset(
    [
        *("an", "as", "at", "be", "by", "do", "go", "he", "if", "in", "is", "it"),
        *("me", "my", "no", "of", "on", "or", "so", "to", "up", "us", "we"),
    ]
)
"""Words that are no variables: 30 sec in all."""


def is_algebra(text: str, gap: str) -> bool:
    """Whether words or letters behind a number are algebra, so that they are no unit and name nothing.

    Only what is plainly so: variables, their powers and products, functions of them. Glued to the number (`gap` is
    empty) any two small letters are a product, unless there is such a unit (`3mn`, `4ac`); elsewhere only letters
    that follow each other in the alphabet (`3 pq`). Other words are units, also where no table has them. Other scripts
    than Latin and Greek are no algebra.
    """
    words = [word.strip(".") for word in text.split()]
    if not _LATIN_OR_GREEK.search(text):
        return False
    if " of " not in text and is_known(one_spelling(text)):
        return not gap and text.rstrip(".") in _LIKE_VARIABLES
    if gap and text == "p":
        return False  # pence
    if _has_variables(words) or _IN_A_BASE.fullmatch(text):
        return True
    return not gap and len(words) == 1 and _is_glued_product(words[0])


def is_variable(text: str) -> bool:
    """Whether letters glued to a number are as likely one variable as the unit of that name: `6s^2`, `2t`, not `5m`."""
    return _VARIABLE.fullmatch(text) is not None and _UNIT_LETTER.fullmatch(text) is None


def begins_a_function(text: str) -> bool:
    """Whether words begin with a function or a constant of mathematics: `cos x`, `pi`."""
    first, *others = (word.strip(".") for word in text.split())
    return _is_function(first, others[0] if others else "")


def _is_measure(word: str) -> bool:
    """Whether a word is a unit that is known, or a product of such units: `N\u00b7m`."""
    return all(part != "" and is_known(one_spelling(part)) for part in word.split("\u00b7"))


def _is_a_name(word: str) -> bool:
    """Whether a word is letters, some three of them in a row: `first-year`, but neither `x-y` nor `x^2`."""
    parts = re.split(r"[-/.'\u2019]", word)
    return all(part.isalpha() for part in parts if part) and max(map(len, parts)) >= _LETTERS_OF_A_NAME


def _has_variables(words: list[str]) -> bool:
    """Whether words behind a number begin with a function or a term, or have one behind such a word or behind `of`."""
    if all(map(_is_measure, words)) and not _VARIABLE.fullmatch(words[0]):
        return False  # N m
    for place, word in enumerate(words):
        before = words[place - 1] if place else "of"
        behind = words[place + 1] if place + 1 < len(words) else ""
        if before != "of" and not _is_term(before) and before.casefold() not in _FUNCTIONS:
            continue
        names_more = _is_a_name(behind) and behind not in _FUNCTIONS and behind not in ("squared", "cubed")
        is_unit = _is_measure(word) and (not place or len(word) > 1)
        if _is_function(word, behind) or (_is_term(word) and not names_more and not is_unit):
            return True
    return False


def _is_function(word: str, behind: str) -> bool:
    """Whether a word is a function or a constant of mathematics, by the word behind it."""
    if word.casefold() not in _FUNCTIONS:
        return False
    if _is_measure(word):
        return behind in _FUNCTIONS or _is_term(behind)  # 30 sec, but 2 sec x
    return behind in _FUNCTIONS or not (_is_a_name(behind) or behind in _SHORT_WORDS)


def _is_term(word: str) -> bool:
    """Whether a word is a variable, a power or a product: `x`, `x^2`, `ab^2`, `pq`, `x-y`, `n/2`, but not `a`."""
    if word.rstrip("^23\u00b2\u00b3") in _LIKE_PRODUCTS:
        return False
    parts = _OPERATOR.split(word)
    if len(parts) > 1:
        has_digits = any(part.isdigit() for part in parts)
        return all(
            part == "a" or part.isdigit() or _is_term(part) or (has_digits and _TWO_LETTERS.fullmatch(part))
            for part in parts
        )
    if len(word) == 1:
        return word != "a" and re.fullmatch(_LETTER, word) is not None
    return _POWER.fullmatch(word) is not None or _is_run(word)


def _is_run(word: str) -> bool:
    """Whether small letters follow each other in the alphabet, as variables do: `mn`, `abcd`."""
    is_short = 1 < len(word) <= _LONGEST_RUN and word.isascii() and word.isalpha() and word.islower()
    return is_short and all(ord(one) + 1 == ord(other) for one, other in pairwise(word))


def _is_glued_product(word: str) -> bool:
    """Whether a word glued to a number is two variables (`lw`), a function of one (`sinx`), or the rest of `0xFF`."""
    if _is_measure(word) or word in _LIKE_PRODUCTS:
        return False
    return any(one.fullmatch(word) for one in (_TWO_LETTERS, _FUNCTION_OF, _HEXADECIMAL))
