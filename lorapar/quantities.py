"""Reading a number as people write it: signs, thousands, fractions, currencies, units.

What is read, and why no further:
- thousands: `1,000`, `1,20,000` (Indian), `1 000` with a plain, thin or no-break space, `1.000.000` and `1'000`. A
  single point is always a decimal point: `1.234` is not 1234.
- decimals: a point; a comma only where it cannot stand between thousands: `3,5`, `0,125` and `1.234,50`, never `1,234`.
- fractions and mixed numbers: `3/4`, `2 1/2`.
- powers of ten: `10^3`, `2e3`, `2 \u00d7 10^3`, `2 \\times 10^{3}`.
- one unit: a currency before the number, and up to five words or a sign behind it. A word that would change the number
  (`million`, `dozen`, `half`), join a second one (`or`, `to`) or make a date or a time of it is no unit, and times such
  as `3:30` are no numbers.
- a name before it: `x = 5`, `Total: 5`, and brackets around it: `(5)`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from lorapar.plain_text import without_lead

_LONGEST = 120
"""Characters of a text that may still be one number with its unit."""
_SIGN = r"[-+\u2212]"
_SPACES = "\u00a0\u2007\u2009\u202f"
"""Spaces that are put between thousands and between nothing else: no-break, figure, thin, narrow no-break."""
_COMMAS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
_POINT = r"(?:\.[0-9]+)?"
# An exponent of at most three digits keeps comparing cheap.
_EXPONENT = r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
_PLAIN = rf"(?:(?:{_COMMAS})(?![0-9]){_POINT}|[0-9]+{_POINT}|\.[0-9]+){_EXPONENT}"
_SPACED = rf"[1-9][0-9]{{0,2}}(?:[ {_SPACES}][0-9]{{3}})+(?![0-9])(?:[.,][0-9]+)?"
_OTHER_POINTS = r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+,[0-9]+|[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}"
_OTHER_COMMA = r"0,[0-9]+|[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})"
_APOSTROPHES = r"[1-9][0-9]{0,2}(?:(?:['\u2019][0-9]{3})+|(?:_[0-9]{3})+)(?:\.[0-9]+)?"
_FRACTION = r"(?:[0-9]{1,9}\s+)?[0-9]{1,9}\s*/\s*[0-9]{1,9}"
_DIGITS = rf"{_FRACTION}|{_SPACED}|{_APOSTROPHES}|{_OTHER_POINTS}|{_PLAIN}|{_OTHER_COMMA}"

_ONE_SPELLING = {
    spelling: unit
    for unit, spellings in {
        "dollar": "$ us$ usd",
        "euro": "\u20ac eur",
        "pound": "\u00a3 gbp",
        "yen": "\u00a5 jpy",
        "rupee": "\u20b9 inr rs",
        "franc": "chf fr sfr",
        "yuan": "cny rmb",
        "won": "\u20a9 krw",
        "rouble": "\u20bd rub ruble",
        "percent": "% pct",
        "degree": "\u00b0 deg",
        "metre": "meter",
        "kilometre": "km kilometer",
        "centimetre": "cm centimeter",
        "millimetre": "mm millimeter",
        "kilogram": "kg kilo",
        "gram": "g",
        "litre": "l liter",
        "millilitre": "ml milliliter",
        "hour": "h hr",
        "minute": "min",
        "second": "sec s",
        "km/h": "kph kmh",
    }.items()
    for spelling in (unit, *spellings.split())
} | {"per cent": "percent"}
"""Ways of writing one unit, in small letters and the singular."""
_SYMBOLS = r"[$\u00a3\u00a5\u20a0-\u20c0]"
_CODES = "USD|EUR|GBP|JPY|INR|CHF|CNY|RMB|KRW|RUB|CAD|AUD|NZD|SGD|HKD|BRL|MXN|SEK|NOK|DKK|PLN|TRY|ZAR"
_BEFORE = rf"[A-Z]{{1,3}}\$|{_SYMBOLS}|(?:{_CODES}|Rs\.?|RS\.?|SFr\.?|Fr\.)(?![A-Za-z])"
_UNIT_WORD = r"[^\W\d_](?:[^\W\d_]|['\u2019./\u00b7\u00b2\u00b3-])*(?:\^?[23](?![0-9]))?"
_AFTER = rf"[A-Z]{{1,3}}\$|{_SYMBOLS}|%|\u00b0\s?[CF]?(?![^\W\d_])|{_UNIT_WORD}(?:\s+{_UNIT_WORD}){{0,4}}"
_ONE = re.compile(
    rf"(?P<sign>{_SIGN}?)\s*(?:(?P<before>{_BEFORE})\s*(?P<inner_sign>{_SIGN}?))?(?P<digits>{_DIGITS})"
    rf"(?:(?P<gap>\s*-?)(?P<after>{_AFTER}))?\s*\.?"
)
_NAMED = re.compile(
    r"(?P<name>\\?[^\W\d_][\w'(){}\\]{0,24}(?:\s+[^\W\d_]{1,20}){0,3})\s*(?P<mark>[=:])\s*(?P<rest>.+)", re.DOTALL
)
"""`x = 5`, `f(x) = 5`, `Total cost: 5`."""
_BRACKETS = re.compile(r"\((.*)\)|\[(.*)\]|\{(.*)\}", re.DOTALL)
# A group that begins with a zero is no number of its own, so a plain space before it stands between thousands.
_ENDS_IN_ZEROS = r"[1-9][0-9]{0,2}(?: [0-9]{3})* 0[0-9]{2}"
# Times are read over. `3,4` may be two numbers, but not before a currency or per cent. Between two numbers a sign is a
# step of a calculation (7-2), anywhere else it belongs to the number (=-2).
_IN_TEXT = re.compile(
    rf"[0-9]+(?::[0-9]+)+|(?!10\s?\^)[^\W_]+\s?\^\s?\{{?[-+]?[0-9]+\}}?"
    rf"|((?<![\w.,^])(?:{_PLAIN}\s?(?:[xX\u00d7\u00b7*]|\\times|\\cdot)\s?)?10\s?\^\s?\{{?[-+]?[0-9]{{1,3}}\}}?(?![\w^])|(?:(?<![0-9A-Za-z)]){_SIGN})?[$\u20ac\u00a3]?"
    rf"(?:(?:[0-9]{{1,9}}\s)?(?<![0-9/])[0-9]{{1,9}}\s?/\s?[0-9]{{1,9}}(?![0-9/])"
    rf"|[1-9][0-9]{{0,2}}(?:[{_SPACES}][0-9]{{3}})+(?![0-9]){_POINT}"
    rf"|(?<![0-9.,])(?:{_OTHER_POINTS}|[0-9]+,[0-9]{{1,2}}(?=\s?(?:%|{_SYMBOLS}))|{_ENDS_IN_ZEROS})(?![0-9]|[.,][0-9])"
    rf"|{_APOSTROPHES}(?![0-9])|{_PLAIN}))"
)
_CHANGES_THE_NUMBER = """
    hundred thousand million billion trillion k m bn mn mio mrd lakh lac crore dozen score half halves third thirds
    quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths st nd rd th negative below minus
"""
_JOINS_A_SECOND = """
    and or to plus times not no nor but vs versus than point by of two three four five six seven eight nine ten eleven
    twelve twenty thirty forty fifty sixty seventy eighty ninety
"""
_MAKES_A_DATE_OR_TIME = """
    am pm a.m p.m o'clock bc ad bce ce january february march april june july august september october november
    december jan feb mar apr jun jul aug sep sept oct nov dec
"""
_NO_UNITS = frozenset(f"{_CHANGES_THE_NUMBER} {_JOINS_A_SECOND} {_MAKES_A_DATE_OR_TIME}".split())
_SMALL_LETTERS_ONLY = frozenset({"m"})
"""Units in small letters, though the capital one changes the number: 18 m are metres, 18 M millions."""
_LATEX_FRACTIONS = (
    (re.compile(r"(?<=[0-9])\s*\\[dt]?frac\s*(?:\{([0-9]+)\}|([0-9]))\s*(?:\{([0-9]+)\}|([0-9]))"), r" \1\2/\3\4"),
    (re.compile(r"\\[dt]?frac\s*(?:\{([0-9]+)\}|([0-9]))\s*(?:\{([0-9]+)\}|([0-9]))"), r"\1\2/\3\4"),
)
_LATEX = (
    *_LATEX_FRACTIONS,
    (re.compile(r"\\(?:text|mathrm|textrm|mbox)\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\\!|\{(?=,\})|(?<=,)\}"), ""),
    (re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree"), "\u00b0"),
    (re.compile(r"\\[,;: ]|(?<=[0-9])~"), " "),
)
"""How LaTeX writes fractions, units, thousands, degrees and spaces."""
_TIMES_TEN = re.compile(
    r"(?<=[0-9])\s*(?:[xX\u00d7\u00b7*]|\\times|\\cdot)\s*10\s*"
    r"(?:\^\s*\{?([-+]?[0-9]{1,3})\}?|([\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))(?![\w^])"
)
_POWER_OF_TEN = re.compile(
    r"\A([-+]?)10\s*(?:\^\s*\{?([-+]?[0-9]{1,3})\}?|([\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))(?![\w^])"
)
"""Where a text begins with one."""
_RAISED = str.maketrans("\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "+-0123456789")


@dataclass(frozen=True)
class Quantity:
    """A number and its unit."""

    value: Fraction
    unit: str = ""
    """In one spelling for each unit; empty where there is none."""
    unit_is_sure: bool = True
    """Whether what stands behind the number can be nothing else than a unit: it is one that is known, or one or two
    words in small letters, and not a title or a name (`12 Monkeys`)."""
    name: str = ""
    """What it is the value of (`x` of `x = 5`), in small letters and without spaces."""
    name_is_sure: bool = True
    """Whether the name is a mathematical one (`x = 5`), and not a title (`Apollo: 13`)."""


def quantity_of(text: str) -> Quantity | None:
    """The value and unit of a text that is one number; None where it is none, or has something else in it."""
    if len(text) > _LONGEST:
        return None
    text = without_lead(text)
    named = _NAMED.fullmatch(text)
    if named is not None and named["name"].split()[0].casefold() not in _NO_UNITS:
        found = _bare_quantity(without_lead(named["rest"]))
        name = "".join(named["name"].split()).casefold()
        return found and replace(found, name=name, name_is_sure=named["mark"] == "=")
    return _bare_quantity(text)


def _bare_quantity(text: str) -> Quantity | None:
    """The value and unit of a text that has no name before it."""
    bracketed = _BRACKETS.fullmatch(text)
    if bracketed is not None:
        text = without_lead(next(part for part in bracketed.groups() if part is not None))
    match = _ONE.fullmatch(_without_latex(text))
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    units = [one for one in (match["before"], match["after"]) if one]
    if match["after"] and not _is_unit(match["after"], match["gap"]):
        return None
    value = _value(match["digits"])
    if value is None:
        return None
    sign = match["sign"] or match["inner_sign"] or "+"
    shown = dict.fromkeys(_one_spelling(unit) for unit in units)
    return Quantity(value if sign == "+" else -value, " ".join(shown), all(map(_is_sure, units)))


def _without_latex(text: str) -> str:
    """A number in plain writing: LaTeX's fractions, spaces and units, and powers of ten as exponents."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _TIMES_TEN.sub(lambda found: "e" + (found[1] or found[2].translate(_RAISED)), text.strip())
    return _POWER_OF_TEN.sub(lambda found: f"{found[1]}1e" + (found[2] or found[3].translate(_RAISED)), text)


def last_number(text: str) -> str | None:
    """The last number in the text as it is written there (`$1,000`, `2 1/2`, `1.234,50`); None where there is none.

    A fraction of LaTeX comes as `1/2`. Two numbers may stand side by side: `3,4` and `1990 300` end in 4 and 300.
    """
    for pattern, plain in _LATEX_FRACTIONS:
        text = pattern.sub(plain, text)
    found = [number for number in _IN_TEXT.findall(text) if number]
    return found[-1] if found else None


def _value(digits: str) -> Fraction | None:
    """The value of digits; None for a fraction of nothing."""
    if "/" in digits:
        top, bottom = (part.strip() for part in digits.split("/"))
        *whole, part = top.split()
        if not int(bottom):
            return None
        return Fraction(int(part), int(bottom)) + sum(map(int, whole))
    for space in f" {_SPACES}'\u2019_":
        digits = digits.replace(space, "")
    if re.fullmatch(_COMMAS, digits.partition(".")[0]) or re.fullmatch(_PLAIN, digits):
        return Fraction(Decimal(digits.replace(",", "")))
    if digits.count(".") > 1 or "," in digits:
        digits = digits.replace(".", "").replace(",", ".")
    return Fraction(Decimal(digits))


def _is_unit(text: str, gap: str) -> bool:
    """Whether what stands behind a number leaves the number as it is."""
    for word in text.split():
        if not (word[0].isalpha() or unicodedata.category(word[0]) in ("Sc", "Po", "So")):
            return False  # 5\u00b2 has no unit
        plain = word.strip(".").casefold()
        if plain in _NO_UNITS and not (plain in _SMALL_LETTERS_ONLY and word[0].islower()):
            return False
        if word == "May" or any(part in _NO_UNITS - _SMALL_LETTERS_ONLY for part in re.split(r"[-/]", plain)):
            return False
    glued = not gap and text[0].isalpha()
    return not glued or " " in text or len(text) <= len("km/h.") or text.casefold() in _ONE_SPELLING


def _one_spelling(unit: str) -> str:
    """One text for the ways of writing a unit: small letters, no plural, one name for each currency."""
    plain = " ".join(unit.split()).casefold().rstrip(".") or unit
    plain = re.sub(r"\^?([23])(?![0-9])", lambda found: "\u00b2\u00b3"[int(found[1]) - 2], plain)
    singular = plain if len(plain) <= len("gas") else plain.removesuffix("s")
    return _ONE_SPELLING.get(plain, _ONE_SPELLING.get(singular, singular))


def _is_sure(unit: str) -> bool:
    if _one_spelling(unit) in _ONE_SPELLING.values() or not unit[0].isalpha():
        return True
    words = unit.split()
    return len(words) == 1 + (len(words) > 1) and unit == unit.lower()
