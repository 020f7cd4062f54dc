"""Reading a number as people write it: signs, thousands, fractions, currencies, units.

What is read, and why no further:
- thousands: `1,000`, `1,20,000` (Indian), `1 000` with a plain, thin or no-break space, `1.000.000` and `1'000`. A
  single point is always a decimal point: `1.234` is not 1234.
- decimals: a point; a comma only where it cannot stand between thousands: `3,5`, `0,125` and `1.234,50`, never `1,234`.
- fractions and mixed numbers: `3/4`, `2 1/2`.
- powers: `10^3`, `2e3`, `2 \u00d7 10^3`, `2 \\times 10^{3}`, `2^5`, `2\u2075`.
- signs, also in words: `-5`, `minus 5`, `negative 5`.
- words: `twelve`, `two thirds`, `2.5 million` (`lorapar.reading.number_words`).
- one unit: a currency before the number, and up to five words or a sign behind it. A word that would change the number
  (`half`, `th`), join a second one (`or`, `to`) or make a date or a time of it is no unit, algebra (`5x`) neither
  (`lorapar.reading.algebra`), and times such as `3:30` are no numbers. `sq m`, `square metres` and `m^2` are one unit.
- a name before it: `x = 5`, `Total: 5`, and brackets around it: `(5)`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from lorapar.plain_text import without_lead
from lorapar.reading.algebra import begins_with_algebra, is_algebra, may_be_variables
from lorapar.reading.claims import is_statement, speaks_of_it, takes_back
from lorapar.reading.number_words import NAMES_OF_NUMBERS, ORDINALS, in_digits
from lorapar.reading.units import BY_TIME, is_known, one_spelling
from lorapar.reading.unspaced import is_named, is_not_named, says_more

_LONGEST = 120
"""Characters of a text that may still be one number with its unit."""
_SIGN = r"[-+\u2212]"
_SIGN_OR_WORD = rf"{_SIGN}|(?:(?i:minus|negative)\s)"
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
_POWER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?\s?\^\s?(?:[-+]?[0-9]{1,3}|\{[-+]?[0-9]{1,3}\})(?![\w^!])"
_DIGITS = rf"{_POWER}|{_FRACTION}|{_SPACED}|{_APOSTROPHES}|{_OTHER_POINTS}|{_PLAIN}|{_OTHER_COMMA}"

_SYMBOLS = r"[$\u00a2\u00a3\u00a5\u20a0-\u20c0]"
_CODES = "USD|EUR|GBP|JPY|INR|CHF|CNY|RMB|KRW|RUB|CAD|AUD|NZD|SGD|HKD|BRL|MXN|SEK|NOK|DKK|PLN|TRY|ZAR"
_BEFORE = rf"[A-Z]{{1,3}}\$|{_SYMBOLS}|(?:{_CODES}|Rs\.?|RS\.?|SFr\.?|Fr\.)(?![A-Za-z])"
_UNIT_WORD = r"[^\W\d_](?:[^\W\d_]|['\u2019./\u00b7\u00b2\u00b3-])*(?:\^?[23](?![0-9]))?"
_AFTER = rf"[A-Z]{{1,3}}\$|{_SYMBOLS}|%|\u00b0\s?[CF]?(?![^\W\d_])|{_UNIT_WORD}(?:\s+{_UNIT_WORD}){{0,4}}"
_ONE = re.compile(
    rf"(?P<sign>(?:{_SIGN_OR_WORD})?)\s*(?:(?P<before>{_BEFORE})\s*(?P<inner_sign>{_SIGN}?))?(?P<digits>{_DIGITS})"
    rf"(?:(?P<gap>\s*-?)(?P<after>{_AFTER}))?\s*[.,;]?"
)
_OF_A_VARIABLE = (
    r"\\(?:[dtc]?frac(?:\{[^{}]*\}){2}|sqrt\{[^{}]*\})\s*[a-zA-Z]|\\sqrt\{[^{}]*[a-zA-Z]"
    r"|\\[dtc]?frac(?:\{[a-zA-Z]\}\{[0-9]+\}|\{[0-9]+\}\{[a-zA-Z]\})"
)
"""Quotients and roots that an equation is yet to be solved for: `\\frac{1}{2}x`, `\\frac{x}{2}`, `\\sqrt{x}`."""
_NAMED = re.compile(
    rf"(?P<name>(?!{_OF_A_VARIABLE})\\?[^\W\d_][\w'(){{}}\\]{{0,24}}(?:\s+[^\W\d_]{{1,20}}){{0,3}})\s*(?P<mark>[=:])\s*(?P<rest>.+)",
    re.DOTALL,
)
"""`x = 5`, `f(x) = 5`, `Total cost: 5`."""
_BRACKETS = re.compile(r"\((.*)\)|\[(.*)\]|\{(.*)\}", re.DOTALL)
# A group that begins with a zero is no number of its own, so a plain space before it stands between thousands.
_ENDS_IN_ZEROS = r"[1-9][0-9]{0,2}(?: [0-9]{3})* 0[0-9]{2}"
# Times are read over. `3,4` may be two numbers, but not before a currency or per cent. Between two numbers a sign is a
# step of a calculation (7-2), anywhere else it belongs to the number (=-2).
_IN_TEXT = re.compile(
    rf"[0-9]+(?:(?::| : )[0-9]+)+|(?<![^\W_])(?=[^\W_])(?![0-9.]{{1,40}}\s?\^)[^\W_]+\s?\^\s?\{{?[-+]?[0-9]+\}}?"
    rf"|((?:(?<![\w)]){_SIGN}|(?<![\w.,^]))(?:{_POWER}|(?:{_PLAIN}\s?(?:[xX\u00d7\u00b7*]|\\times|\\cdot)\s?)?10\s?\^\s?\{{?[-+]?[0-9]{{1,3}}\}}?(?![\w^]))|(?:(?<![0-9A-Za-z)]){_SIGN})?[$\u20ac\u00a3]?"
    rf"(?:(?:[0-9]{{1,9}}\s)?(?<![0-9/])[0-9]{{1,9}}\s?/\s?[0-9]{{1,9}}(?![0-9/])"
    rf"|[1-9][0-9]{{0,2}}(?:[{_SPACES}][0-9]{{3}})+(?![0-9]){_POINT}"
    rf"|(?<![0-9.,])(?:{_OTHER_POINTS}|[0-9]+,[0-9]{{1,2}}(?=\s?(?:%|{_SYMBOLS}))|{_ENDS_IN_ZEROS})(?![0-9]|[.,][0-9])"
    rf"|{_APOSTROPHES}(?![0-9])|{_PLAIN}))"
)
_CHANGES_THE_NUMBER = """
    ish tens quadrillion quintillion k m bn mn mil mio mrd lakh lac lakhs crore crores score gross grand fold permille
    zillion gazillion short binary octal hexadecimal hex st nd rd th negative below minus
    \u4e07 \u842c \u4ebf \u5104 \u5146 \u5343 \u767e \u5341 \u534a
"""
_JOINS_A_SECOND = """
    and or to plus times not no nor but vs versus than point by of two three four five six seven eight nine ten eleven
    twelve twenty thirty forty fifty sixty seventy eighty ninety
"""
_MAKES_A_DATE_OR_TIME = """
    am pm a.m p.m o'clock bc ad bce ce january february march april june july august september october november
    december jan feb mar apr jun jul aug sep sept oct nov dec
"""
_JOINING = frozenset(_JOINS_A_SECOND.split())
"""Behind a number in a sentence they begin something new: `18 of them`."""
_NO_MEASURE = frozenset(["out", "instead", "because", "short"])
"""Words before `of` that measure nothing: `3 out of them`, but `3 slices of pizza`."""
_ALONE = ORDINALS | frozenset(
    ["grand", "gross", "fold", "binary", "octal", "hexadecimal", "hex", "short", "squared", "cubed", "factorial"]
)
"""They change a number only where nothing else is behind it: `5 grand`, but `5 grand pianos`, `12 seventh graders`."""
_NO_UNITS = (
    (NAMES_OF_NUMBERS | frozenset(f"{_CHANGES_THE_NUMBER} {_JOINS_A_SECOND} {_MAKES_A_DATE_OR_TIME}".split()))
    - _ALONE
    - {"times"}
)
_NAMES_NOTHING = frozenset(f"{_JOINS_A_SECOND} {_MAKES_A_DATE_OR_TIME} negative below minus".split())
"""Words that begin no name of a quantity before its number."""
_SMALL_LETTERS_ONLY = frozenset({"m"})
"""Units in small letters, though the capital one changes the number: 18 m are metres, 18 M millions."""
_IN_A_BASE = re.compile(r"in (?:binary|octal|decimal|hex|hexadecimal|base \w+)", re.IGNORECASE)
_TITLE = re.compile(r"(?=[^\W\d_]{3})[A-Z\u00c0-\u00de][^\W\d_A-Z]+")
"""A word that may be of a title: `12 Monkeys`, but not `12 mAh` or `12 R$`."""
_SAID_AGAIN = re.compile(r"(?P<one>[^()]*[^()\s])\s+\((?P<again>[^()]+)\)(?P<rest>[^()]*)")
_WORDS_OF_A_UNIT = 2
_CHINESE_NUMBER = re.compile(
    "[\u4e07\u842c\u4ebf\u5104\u5146]|\u767e(?!\u5206)|\u5341(?!\u5b57)|\u5343(?![\u514b\u7c73\u74e6\u5361\u7126\u5e15])"
    "|.{0,2}\u534a(?![\u5f84\u5f91\u51b3\u6c7a\u5bfc\u5c0e\u7403\u5706\u5713])"
)
"""Signs that multiply the number before them, and a half, but for words such as kilogram or radius."""
_DECADE = re.compile(r"[12][0-9]{2}0")
"""`1990s` are no seconds."""
_LATEX_FRACTIONS = (
    (re.compile(r"(?<=[0-9])\s*\\[dt]?frac\s*(?:\{([0-9]+)\}|([0-9]))\s*(?:\{([0-9]+)\}|([0-9]))"), r" \1\2/\3\4"),
    (re.compile(r"\\[dt]?frac\s*(?:\{([0-9]+)\}|([0-9]))\s*(?:\{([0-9]+)\}|([0-9]))"), r"\1\2/\3\4"),
)
_Rewriting = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_FORMULA = re.compile(r"(?<![\\$])\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?![0-9$])")
"""`$5$ cm`, by the rule of Markdown that tells it from `$5 and $6`: blanks stand outside, and no digit behind."""


def _apart(found: re.Match[str]) -> str:
    """What markup holds, with a blank where it would run into its neighbours: `\u662f$5$`, `\\boxed{3}\\boxed{4}`."""
    before = found.string[found.start() - 1 : found.start()]
    behind = found.string[found.end() : found.end() + 1]
    ahead = " " if before.isalnum() or before == "}" else ""
    return f"{ahead}{found[1]}{' ' if behind.isalnum() or behind == chr(92) else ''}"


_LATEX: tuple[_Rewriting, ...] = (
    (_FORMULA, _apart),
    (re.compile(r"\\f?box(?:ed)?\s*\{([^{}]*)\}"), _apart),
    (re.compile(r"(?<![0-9])(?<![0-9]\s)\\[dt]?frac\s*\{\s*-\s*([0-9]+)\}\s*\{([0-9]+)\}"), r"-\1/\2"),
    *_LATEX_FRACTIONS,
    (re.compile(r"\\(?:text|mathrm|textrm|mbox)\{([^{}]*)\}"), r" \1"),
    (re.compile(r"(?<=[A-Za-z])\s*\^\s*\{([23])\}"), r"^\1"),
    (re.compile(r"\\!|\{(?=,\})|(?<=,)\}"), ""),
    (re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree"), "\u00b0"),
    (re.compile(r"\\[,;: ]|(?<=[0-9])~(?![0-9](?![0-9]{2}))"), " "),
)
"""How LaTeX writes fractions, units, thousands, degrees and spaces."""
_PLURAL = re.compile(r"(?:[^\W\d_]+ )*[^\W\d_]{2,}[^\W\d_isu]s")


def _without_brackets(found: re.Match[str]) -> str:
    """`18 (apples)` as `18 apples`; what else is in brackets may say something about the number: `5 (wrong)`."""
    words = found[1]
    is_plural = words == words.lower() and _PLURAL.fullmatch(words) and not speaks_of_it(words)
    is_unit = is_plural or is_known(one_spelling(words)) or words.casefold() in NAMES_OF_NUMBERS
    return f" {words}" if is_unit else found[0]


_PARTS = (("half", " 1/2"), ("third", " 1/3"), ("quarter", " 1/4"))
_OTHER_WAYS: tuple[_Rewriting, ...] = (
    (BY_TIME, " per "),
    (re.compile(r"(?<=[A-Za-z])\s+/\s+(?=[A-Za-z])"), "/"),
    (re.compile(r"(?<=[0-9])\s?\*\*\s?(?=[-+]?[0-9])"), "^"),
    (re.compile(r"(?<![^\s$])([0-9]{1,3}) and (?=[0-9]{1,3}/[0-9]{1,3}(?![0-9/]))"), r"\1 "),
    *((re.compile(rf"(?<=[0-9]) and (?:a|one)[ -]{word}(?![\w-])"), part) for word, part in _PARTS),
    (re.compile(rf"(?<=[0-9])\s*\(({_UNIT_WORD}(?: {_UNIT_WORD}){{0,2}}|%)\)\s*\Z"), _without_brackets),
    (re.compile(r"(?<=[0-9])[,.][-\u2013](?=\s|\Z)"), ""),
)
"""Rates, Python's powers, `1 and 1/2`, `18 (apples)` and the price `18,-`, where a text is one number."""
_ESCAPED_BRACES = ((re.compile(r"\\([{}])"), r"\1"),)
_TIMES_TEN = re.compile(
    r"(?<=[0-9])\s*(?:[xX\u00d7\u00b7*]|\\times|\\cdot)\s*10\s*"
    r"(?:\^\s*\{?([-+]?[0-9]{1,3})\}?|([\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))(?![\w^])"
)
_POWER_OF_TEN = re.compile(
    r"\A([-+]?)10\s*(?:\^\s*\{?([-+]?[0-9]{1,3})\}?|([\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))(?![\w^])"
)
"""Where a text begins with one."""
_RAISED_DIGITS = re.compile(r"(?<=[0-9])[\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_RAISED = str.maketrans("\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "+-0123456789")

_WINDOW = 80
"""Characters before a number that are looked at for what it is a part of."""
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_MEASURES = (
    r"feet|foot|ft|h|hrs?|hours?|min|minutes?|lbs?|pounds?|stone|\u00b0|deg|degrees?"
    r"|m|km|kg|weeks?|days?|years?|dollars?|euros?"
)
_END_OF_NUMBER = rf"[0-9]\s?[%\u00b0)\]]?\s?(?:{_UNIT_WORD}\s?)?"
_PART_BEFORE = re.compile(
    rf"(?:{_END_OF_NUMBER}(?:\.{{2,3}}|\u2026|-|~|\bto\b|\bthrough\b|\bor\b)"  # 3-5, 3 apples or 5
    r"|[0-9]\)?\s?(?:\b(?:and|of|out\sof|in|point|times|plus|minus|by|vs\.?|versus)(?<=[\w.])"
    r"|[+*/\u00f7\u00d7\u00b7x]|\\(?:times|cdot|div)\b)"  # 5 of 6, 5 x 6
    r"|\u00b1|\+/?-|\\[pm]{2}\b|\u2260|!=|\\(?:ne|neq|le|leq|ge|geq|lt|gt)\b|[\u2264\u2265]|(?:(?:\A|\s)[<>]|[^\W_][<>])=?"
    r"|\b(?:not|at\s(?:least|most)|up\sto|twice|double|triple|half|(?:log|ln|sin|cos|tan)(?:_\{?\w+\}?)?"
    r"|(?:more|less|fewer|greater|larger|smaller|higher|lower)\sthan"
    r"|(?:root|square|cube|half|third|quarter|factorial|logarithm)\sof)"
    rf"|[0-9]\s?(?:{_MEASURES})(?:\sand)?|[0-9]['\u2032]|\b(?:{_MONTHS})"  # 5 ft 6 in
    r"|\}\s?\{|\\(?:sqrt|overline|bar)\s?(?:\[[^\]]*\])?\{?"
    r"|(?<![\w)])[^\W\d_]\w*\s?=\s?[-+.0-9]+\s?(?:,|;|\band\b|\bor\b)\s?[^\W\d_]\w*\s?=)\s*\Z",  # x = 5, y = 6
    re.IGNORECASE,
)
"""What a number is a part of, by what stands before it."""
_GLUED_BEFORE = re.compile(
    rf"(?:[0-9][-/.]\(?|[0-9][a-z]{{1,3}}/|[\u221a_]|[0-9A-Za-z_)]\*\*|[0-9)]\(|\b[a-z]\(|[^\W\d_]-|(?<![^\W\d_])(?!(?:{_CODES}|Rs|SFr|Fr)\Z)[^\W\d_]+)\Z"
)
"""The same where nothing is between: `2024-01-05`, `0.(3)`, `H2O`, `GPT-4`, `2(5)`."""
_PART_BEHIND = re.compile(
    r"\s?(?:\u00b1|\+/?-|\\pm\b|\u2030)|[-+]\s*(?:\Z|[.,;)\]])|[\x20\t]?[-+][\x20\t]?[b-z\u03c0](?![^\W_]|'|\s(?:is|was|are|means)\b)|\s?(?:\\(?:pi|sqrt|theta|cdot|times|div)\b|\u221a)"
    r"|\s?\^(?!\s?\{?\s?\\circ)|/[a-z](?!\w)"
    r"|\s?(?:\u00b0\s?[CF]?|degrees?(?:\s\w+)?)\sbelow\b|\s(?:or\s(?:more|less|fewer|greater|higher|lower|above|below|over|under)|and\s(?:up|above|over|below)"
    r"|squared|cubed|factorial)\b"
)
"""`5 +/- 1`, `5+`, `5\\pi`, `5 or more`."""
_NEGATIVE = re.compile(r"(?<![0-9] )\b(?:minus|negative)\s\Z", re.IGNORECASE)
_LISTED = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")


@dataclass(frozen=True)
class Quantity:
    """A number and its unit."""

    value: Fraction
    unit: str = ""
    """In one spelling for each unit; empty where there is none."""
    unit_is_sure: bool = True
    """Whether what is behind the number can be nothing else than a unit: it is one that is known, or one or two
    words in small letters, and not a title or a name (`12 Monkeys`)."""
    name: str = ""
    """What it is the value of (`x` of `x = 5`), in small letters and without spaces."""
    name_is_sure: bool = True
    """Whether the name is a mathematical one (`x = 5`), and not a title (`Apollo: 13`)."""
    may_be_algebra: bool = False
    """Whether the unit may be variables (`2t`), so that it counts only beside another number that has it."""
    in_words: bool = False
    """Whether the number is written in words, or ends in one (`2 million`)."""


def quantity_of(text: str) -> Quantity | None:
    """The value and unit of a text that is one number; None where it is none, or has something else in it."""
    return None if len(text) > _LONGEST else _known_quantity(text)


@lru_cache(maxsize=4096)  # a reference is compared with many answers
def _known_quantity(text: str) -> Quantity | None:
    text = without_lead(text)
    named = _NAMED.fullmatch(text)
    if named is not None and named["name"].split()[0].casefold() not in _NAMES_NOTHING:
        found = None if is_not_named(named["name"]) else _bare_quantity(without_lead(named["rest"]))
        name = "".join(named["name"].split()).casefold()
        return found and replace(found, name=name, name_is_sure=named["mark"] == "=")
    return _bare_quantity(text)


def _bare_quantity(text: str) -> Quantity | None:
    """The value and unit of a text that has no name before it."""
    bracketed = _BRACKETS.fullmatch(text)
    if bracketed is not None:
        text = without_lead(next(part for part in bracketed.groups() if part is not None))
    text = _said_once(_without_latex(text))
    in_words = in_digits(text)
    match = _ONE.fullmatch(in_words or text)
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    after = match["after"]
    if after and (not _names_a_unit(after, match["gap"]) or is_statement(after) or takes_back("", "", f" {after}")):
        return None
    if after == "s" and not match["gap"] and _DECADE.fullmatch(match["digits"]):
        return None
    value = _value(match["digits"])
    if value is None:
        return None
    sign = match["sign"] or match["inner_sign"] or "+"
    units = [one for one in (match["before"], match["after"]) if one]
    is_sure = all(map(_is_sure, units)) or is_known(_unit_of(units))
    may_be_algebra = bool(after) and may_be_variables(after, match["gap"])
    number = Quantity(value if sign == "+" else -value, _unit_of(units), is_sure)
    return replace(number, in_words=in_words is not None, may_be_algebra=may_be_algebra)


def _said_once(text: str) -> str:
    """A text without the number that stands in brackets behind the same one: `7 (seven) days` as `7 days`."""
    found = _SAID_AGAIN.fullmatch(text)
    if found is None or found["one"] == found["again"]:
        return text
    one, again = _bare_quantity(found["one"]), _bare_quantity(found["again"])
    same = one is not None and again is not None and (one.value, again.unit) == (again.value, "")
    return found["one"] + found["rest"] if same else text


def _unit_of(units: list[str]) -> str:
    """The unit before a number and that behind it as one: `$` and `per hour`, but `$` and `dollars` are the same."""
    if len(units) > 1 and units[1].casefold().startswith(("per ", "a ", "an ")):
        return one_spelling(" ".join(units))
    return " ".join(dict.fromkeys(map(one_spelling, units)))


def _without_latex(text: str) -> str:
    """A number in plain writing: LaTeX's fractions, spaces and units, and powers of ten as exponents."""
    for pattern, plain in (*_LATEX, *_OTHER_WAYS):
        text = pattern.sub(plain, text)
    text = _TIMES_TEN.sub(lambda found: "e" + (found[1] or found[2].translate(_RAISED)), text.strip())
    text = _POWER_OF_TEN.sub(lambda found: f"{found[1]}1e" + (found[2] or found[3].translate(_RAISED)), text)
    return _RAISED_DIGITS.sub(lambda found: "^" + found[0].translate(_RAISED), text)


def last_number(text: str) -> str | None:
    """The last number in the text as it is written there (`$1,000`, `2 1/2`, `1.234,50`); None where there is none.

    A fraction of LaTeX comes as `1/2`. Two numbers may stand side by side: `3,4` and `1990 300` end in 4 and 300.
    """
    for pattern, plain in _LATEX_FRACTIONS:
        text = pattern.sub(plain, text)
    found = [number for number in _IN_TEXT.findall(text) if number]
    return found[-1] if found else None


def last_stated_number(text: str) -> str | None:
    """The last number in the text with its unit, as it is written there; None where it is a part of something else.

    Such as a range (`3-5`), a list (`[1, 2]`), a choice (`5 or 6`), a calculation that nobody has finished (`5 x 6`), a
    comparison (`at least 5`), a date, two units (`5 ft 6 in`), or a word that changes it (`5 million`, `5th`).
    """
    for pattern, plain in (*_LATEX, *_ESCAPED_BRACES):
        text = pattern.sub(plain, text)
    text = _RAISED_DIGITS.sub(lambda found: "^" + found[0].translate(_RAISED), text)
    match = next((one for one in reversed(list(_IN_TEXT.finditer(text))) if one[1]), None)
    if match is None or _in_a_list(text, match):
        return None
    number = match[1]
    before, behind = text[max(0, match.start(1) - _WINDOW) : match.start(1)], text[match.end(1) :]
    if negative := _NEGATIVE.search(before):
        number, before = f"-{number}", before[: negative.start()]
    if _is_a_part(number, before, behind):
        return None
    unit = re.match(rf"\s?-?({_AFTER})", behind)
    first = unit[1].split()[0] if unit else ""
    if unit is None or first.casefold() in _JOINING or (first in ("a", "I") and first != unit[1]):
        return number
    if (several := _in_millions(number, unit[1].split())) is not None:
        return several
    measure = unit[1] if first.strip(".").casefold() in _ALONE else first
    is_decade = first == "s" and not unit[0][0].isspace() and _DECADE.fullmatch(number)
    gap = unit[0][: unit.start(1) - unit.start()]
    changes = not _leaves_the_number(measure) or begins_with_algebra(unit[1], gap) or is_decade
    return None if changes else f"{number}{unit[0]}"


def _in_millions(number: str, words: list[str]) -> str | None:
    """A number with the word that multiplies it (`1.5 million`); None where there is none, or another one behind it."""
    first, behind = words[0].strip("."), "".join(words[1:2])
    if first.casefold() not in NAMES_OF_NUMBERS or behind.casefold() in NAMES_OF_NUMBERS | {"and"}:
        return None
    found = quantity_of(f"{number} {first}")
    return f"{number} {first}" if found is not None and found.in_words else None


def _is_a_part(number: str, before: str, behind: str) -> bool:
    """Whether what stands around a number makes it a part of something else."""
    glued = number[0].isalnum() and _GLUED_BEFORE.search(before)
    exclaimed = behind.strip() == "!" and not before.strip()
    goes_on = "." in number and behind.startswith(("...", "\u2026"))
    overlined = bool(behind) and unicodedata.category(behind[0]) == "Mn"
    if not is_named(before, behind):
        return True
    around = _PART_BEFORE.search(before) or _PART_BEHIND.match(behind) or takes_back(number, before, behind)
    return bool(glued or around or exclaimed or goes_on or overlined)


def _in_a_list(text: str, number: re.Match[str]) -> bool:
    """Whether a number is a member of `[1, 2]` or `(1; 2)`, or the last of `1, 2` at the end of a text."""
    for found in _LISTED.finditer(text):
        members = re.split(r"[;,]", found[1])
        if found.start() < number.start(1) < found.end() and len(members) > 1 and not re.fullmatch(_COMMAS, found[1]):
            return all(_bare_quantity(member.strip()) is not None for member in members)
    joined = re.search(r"(?:\A|[\s>])[0-9.]+[;,]\s?\Z", text[: number.start(1)][-_WINDOW:])
    return joined is not None and not text[number.end(1) :].removesuffix("</answer>").strip(" .!\n")


def _value(digits: str) -> Fraction | None:
    """The value of digits; None for a fraction of nothing."""
    if "^" in digits:
        base, exponent = (Fraction(part.strip(" {}")) for part in digits.split("^"))
        return base ** int(exponent) if base or exponent > 0 else None
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


def _names_a_unit(text: str, gap: str) -> bool:
    """Whether what is behind a number can only be a unit or the name of what is counted."""
    return _leaves_the_number(text) and not is_algebra(text, gap)


def _leaves_the_number(text: str) -> bool:
    """Whether what is behind a number leaves the number as it is."""
    if _IN_A_BASE.fullmatch(text):
        return False
    measure, of, _ = text.partition(" of ")
    if measure.strip(".").casefold() in _ALONE:
        return False
    if of and (is_known(one_spelling(measure)) or measure.split()[-1].casefold() not in _NO_MEASURE):
        text = measure
    for word in text.split():
        if not (word[0].isalpha() or unicodedata.category(word[0]) in ("Sc", "Po", "So")):
            return False
        plain = word.strip(".").casefold()
        if plain in _NO_UNITS and not (plain in _SMALL_LETTERS_ONLY and word[0].islower()):
            return False
        if (
            word == "May"
            or _CHINESE_NUMBER.match(word)
            or says_more(word)
            or any(part in _NO_UNITS - _SMALL_LETTERS_ONLY for part in re.split(r"[-/]", plain))
        ):
            return False
    return True


def _is_sure(unit: str) -> bool:
    plain = one_spelling(unit)
    if is_known(plain) or not unit[0].isalpha():
        return True
    measures = plain.partition(" of ")[0].split("/")
    has_title = any(map(_TITLE.fullmatch, unit.split()))
    return not has_title and all(len(one.split()) <= _WORDS_OF_A_UNIT for one in measures)
