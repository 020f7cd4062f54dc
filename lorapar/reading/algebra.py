"""Whether letters behind a number are algebra, as in `3x - 2`, or a unit or what is counted, as in `3 kg`, `3 pears`.

The rule: letters are algebra where they are one letter that the table of units lacks, a power or an operator between
such letters, a function of mathematics with its argument, or small letters that spell neither a unit nor a word: any
that are glued to the number, and two or three consonants, also behind an `a`, where a blank is between (`12 xy`). All
else is a unit, or counted.

Where small letters glued to a number are a unit that could be variables as well (`2t`, `4ac`), they are the unit only
beside another answer that has it (`2 tonnes`).
"""

from __future__ import annotations

import re

from lorapar.reading.units import base_and_power, is_unit, is_usual

_FUNCTIONS = frozenset(
    [
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("log", "ln", "lg", "exp", "sqrt", "mod", "choose", "times"),
    ]
)
_GREEK = frozenset(
    [
        *("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda"),
        *("mu", "pi", "rho", "sigma", "tau", "phi", "omega"),
    ]
)
_SMALL = r"[a-z\u03b1-\u03c9]"
_POWER = r"(?:\^?[23]|[\u00b2\u00b3])"
_LETTERS = re.compile(rf"(?:{_SMALL}{_POWER}?)+|[A-Z\u0391-\u03a8]{_POWER}?")
_ANY_POWER = re.compile(_POWER)
_PRODUCT = re.compile(r"a?[b-df-hj-np-tv-xz]{1,3}|[a-dkmn]?[xyz]{1,3}")
_LONGEST_PRODUCT = 3
_NO_PRODUCTS = frozenset(["al", "am", "an", "as", "at", "by", "hm", "my", "mr", "sh", "vs"])
"""What has the letters of a product behind a blank (`12 xy`, `5 abc`), but is a word."""
_WORD = re.compile(r"(?=.{3})[a-z]+(?:[aeiou][a-z]*|s)")
"""A vowel behind the first letter, or an s at the end: `men`, `eggs`, but not `abc` or `lw`."""
_OPERATOR = re.compile("[-/\u00b7]")
_FUNCTION_OF = re.compile(r"(?:sin|cos|tan|cot|csc|log|ln)[xyz\u03b8]")
_ARGUMENT = re.compile(rf"{_SMALL}{_POWER}?")
_HEXADECIMAL = re.compile("x[0-9A-F]+")
"""The rest of `0xFF`."""
_ARTICLE = re.compile(r"\ba (?=[^\W\d_]{2})")
_RAISES = frozenset(["square", "squared", "cubic", "cubed", "unit", "units"])
_LETTERS_OF_A_NAME = 4
_LONGEST_TERM = 20


def is_algebra(text: str, gap: str) -> bool:
    """Whether letters or words behind a number are algebra; `gap` stands between, and is empty where they are glued."""
    _, _, measured = text.partition(" of ")
    if measured and is_algebra(measured, " "):
        return True  # 3 percent of x
    words = _words(text)
    if begins_with_algebra(text, gap):
        return not gap or len(words) < 2 or not _names_more(words[1])
    are_terms = [_is_term(word, glued=False) for word in words]
    return any(are_terms) and all(term or is_unit(word) for term, word in zip(are_terms, words, strict=True))


def begins_with_algebra(text: str, gap: str) -> bool:
    """Whether words behind a number begin with algebra: `cos x`, `pi`, `x in total`."""
    first, *others = _words(text)
    if first in _FUNCTIONS and others:
        return others[0] in _FUNCTIONS | _GREEK or _ARGUMENT.fullmatch(others[0]) is not None
    if gap and others and len(first) > 1 and _PRODUCT.fullmatch(first) and _names_more(others[0]):
        return False  # 12 tv sets
    return _is_term(first, glued=not gap) or (not gap and _HEXADECIMAL.fullmatch(first) is not None)


def may_be_variables(text: str, gap: str) -> bool:
    """Whether a unit behind a number may as well be variables: `2t`, `4ac`, `6 s^2`, but not `5m` or `5t of sand`."""
    first = text.split()[0].strip(".")
    if " of " in text or _LETTERS.fullmatch(first) is None:
        return False
    base, power = base_and_power(first)
    if power and len(base) == 1:
        return base != "m"
    return not (gap or not base.islower() or _WORD.fullmatch(base) or is_usual(base))


def _words(text: str) -> list[str]:
    return [word.strip(".") for word in _ARTICLE.sub("", text).split()]


def _names_more(word: str) -> bool:
    """Whether a word behind a letter makes a name of it: `5 b cells`, but neither `5 x squared` nor `5 x dollars`."""
    is_long = word.isalpha() and len(word) >= _LETTERS_OF_A_NAME
    return is_long and word not in _RAISES | _FUNCTIONS | _GREEK and not is_unit(word)


def _is_term(word: str, *, glued: bool) -> bool:
    """Whether a word is variables, a power, a product or a function of them: `x`, `ab^2`, `x-y`, `n/2`, `sinx`."""
    if len(word) > _LONGEST_TERM:
        return False
    parts = _OPERATOR.split(word)
    if len(parts) == 1:
        return word in _GREEK or _are_variables(word, glued=glued) or _FUNCTION_OF.fullmatch(word) is not None
    if is_unit(word) or all(is_unit(part) for part in parts if part):
        return False  # y/o, N·m
    return all(part.isdigit() or _are_variables(part, glued=True) or (glued and len(part) == 1) for part in parts)


def _are_variables(word: str, *, glued: bool) -> bool:
    """Whether letters are variables: one by itself that is no unit, several with a power, glued or as a product."""
    if _LETTERS.fullmatch(word) is None or is_unit(word):
        return False
    base, count = _ANY_POWER.subn("", word)
    if not (len(base) == 1 or glued or count > 0):
        return _PRODUCT.fullmatch(word) is not None and len(word) <= _LONGEST_PRODUCT and word not in _NO_PRODUCTS
    return len(base) == 1 or _WORD.fullmatch(base) is None
