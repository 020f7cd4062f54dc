"""Numbers in English words: `twenty-one`, `a dozen`, `two thirds`, `one and a half`, `2.5 million`, `twenty-first`.

Only what a text begins with is read, and only where all of it is one number: `five or six` stays what it is.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_COUNTS = {"dozen": 12, "hundred": 100, **_SCALES}
_PARTS = {
    **{"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8},
    **{"ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000},
}
_PLURALS = {"halves": 2, **{f"{word}s": value for word, value in _PARTS.items() if word != "half"}}
_ORDINALS = {
    **{"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine"},
    **{"twelfth": "twelve"},
    **{f"{word}th": word for word in (*_SMALL, *_COUNTS) if word not in ("one", "two", "three")},
    **{f"{word[:-1]}ieth": word for word in _TENS},
}
_BEGIN = re.compile(
    r"(?P<sign>minus\s+|negative\s+)?(?P<words>(?:an?|half|{})\b.*)".format("|".join((*_SMALL, *_TENS))),
    re.IGNORECASE | re.DOTALL,
)
_SCALED = re.compile(
    r"(?P<before>[^\d\s]{0,4}\s?)(?P<digits>[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?)[\s-]+"
    rf"(?P<scale>{'|'.join(_COUNTS)})s?(?![^\W\d_])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_PARTED = re.compile(
    rf"(?P<sign>-?)(?P<digits>[0-9]{{1,9}})[\s-]+(?P<part>{'|'.join((*_PARTS, *_PLURALS))})(?![^\W\d_])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
NAMES_OF_NUMBERS = frozenset({*_PARTS, *_PLURALS, *_COUNTS, *(f"{word}s" for word in _COUNTS)})
"""Words that make another number of the digits before them: `5 millions`, `5 sixths`."""
ORDINALS = frozenset(_ORDINALS) - {"second"}
_ORDINAL = re.compile(r"([0-9]{1,9})(?:st|nd|rd|th)", re.IGNORECASE)
_WORD = re.compile(r"[\s-]*([^\W\d_]+)")
_ARTICLE = re.compile(r"\s+(?:of\s+)?an?\s+", re.IGNORECASE)


def in_digits(text: str) -> str | None:
    """A text that begins with a number in words, with it in digits: `21 apples`; None where it begins with none."""
    scaled = _SCALED.fullmatch(text)
    if scaled is not None:
        value = Fraction(scaled["digits"].replace(",", "")) * _COUNTS[scaled["scale"].casefold()]
        return f"{scaled['before']}{_written(value)}{scaled['rest']}"
    parted = _PARTED.fullmatch(text)
    below = (
        0 if parted is None else (_PARTS if int(parted["digits"]) == 1 else _PLURALS).get(parted["part"].casefold(), 0)
    )
    if parted is not None and below:
        rest = _ARTICLE.sub(" ", parted["rest"], count=1) if _ARTICLE.match(parted["rest"]) else parted["rest"]
        return f"{parted['sign']}{_written(Fraction(int(parted['digits']), below))}{rest}"
    begin = _BEGIN.fullmatch(text)
    if begin is None:
        return None
    found = _read(begin["words"])
    if found is None:
        return None
    value, rest = found
    if value.denominator > 1:
        rest = _ARTICLE.sub(" ", rest, count=1) if _ARTICLE.match(rest) else rest
    return f"{'-' if begin['sign'] else ''}{_written(value)}{rest}"


def ordinal_of(text: str) -> int | None:
    """The value of an ordinal number (`21st`, `twenty-first`); None where a text is none."""
    if (found := _ORDINAL.fullmatch(text)) is not None:
        return int(found[1])
    before, last = re.fullmatch(r"(.*?)([^\W\d_]*)", text.casefold(), re.DOTALL).groups()  # type: ignore[union-attr]
    if last not in _ORDINALS:
        return None
    read = _read(f"{before}{_ORDINALS[last]}".strip())
    return int(read[0]) if read is not None and not read[1] and read[0].denominator == 1 else None


def _written(value: Fraction) -> str:
    whole, part = divmod(value.numerator, value.denominator)
    if not part:
        return str(whole)
    return f"{whole} {part}/{value.denominator}" if whole else f"{part}/{value.denominator}"


def _read(text: str) -> tuple[Fraction, str] | None:
    """The number that a text begins with and what stands behind it; None where there is none, or it is another kind."""
    reader = _Reader(text)
    value = reader.half() or reader.whole()
    word = reader.word()
    counts_seconds = word == "second" and value is not None and (value < 20 or value % 10 != 0)
    if value is None or (word in _ORDINALS and not counts_seconds):
        return None  # twenty-first, but one second
    return value, text[reader.place :]


class _Reader:
    """Reads number words one after another."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.place = 0
        """Where the next word begins."""

    def word(self, *, ahead: int = 0) -> str:
        """The next word in small letters, or one behind it; empty where there is none."""
        place, found = self.place, None
        for _ in range(ahead + 1):
            found = _WORD.match(self._text, place)
            if found is None:
                return ""
            place = found.end()
        return found[1].casefold() if found is not None else ""

    def skip(self, words: int = 1) -> None:
        """Go on behind the next words."""
        for _ in range(words):
            found = _WORD.match(self._text, self.place)
            self.place = found.end() if found is not None else len(self._text)

    def half(self) -> Fraction | None:
        """`half`, and `half a dozen`."""
        if self.word() != "half":
            return None
        self.skip()
        count = _COUNTS.get(self.word(ahead=1)) if self.word() == "a" else None
        if count is not None:
            self.skip(2)
        return Fraction(count or 1, 2)

    def whole(self) -> Fraction | None:
        """A whole number, with the part of one that follows it."""
        count = self._article() or self._below_hundred()
        if count is None:
            return None
        if (part := self._part(count)) is not None:
            return part
        total = self._with_scales(count)
        return None if total is None else total + self._and_a_part()

    def _article(self) -> int | None:
        """The `a` of `a dozen` and `a third`."""
        if self.word() not in ("a", "an") or self.word(ahead=1) not in (*_COUNTS, *_PARTS):
            return None
        self.skip()
        return 1

    def _below_hundred(self) -> int | None:
        word = self.word()
        if word in _SMALL:
            self.skip()
            return _SMALL[word]
        if word not in _TENS:
            return None
        self.skip()
        ones = _SMALL.get(self.word(), 0)
        if 0 < ones < 10:
            self.skip()
            return _TENS[word] + ones
        return _TENS[word]

    def _with_scales(self, first: int) -> Fraction | None:
        """What a count comes to with the scales and counts behind it: two hundred and five thousand and one."""
        total, last = 0, 10**15
        count = first
        while True:
            if self.word() == "hundred":
                self.skip()
                count = 100 * count + (self._rest() or 0)
            scale = 12 if self.word() == "dozen" else _SCALES.get(self.word(), 1)
            if scale >= last:
                return None
            if scale > 1:
                self.skip()
            total, last = total + count * scale, scale
            following = self._rest() if scale >= 10**3 else None
            if following is None:
                return None if self.word() in (*_SMALL, *_TENS) else Fraction(total)
            count = following

    def _rest(self) -> int | None:
        """The number below a hundred that follows, with `and` or without."""
        place = self.place
        if self.word() == "and":
            self.skip()
        found = self._below_hundred()
        if found is None:
            self.place = place
        return found

    def _part(self, count: int) -> Fraction | None:
        """Thirds, quarters and so on, of which there are `count`."""
        below = (_PARTS if count == 1 else _PLURALS).get(self.word())
        if below is None:
            return None
        self.skip()
        return Fraction(count, below)

    def _and_a_part(self) -> Fraction:
        """The half of `one and a half`, the quarters of `one and three quarters`."""
        count = 1 if self.word(ahead=1) in ("a", "an") else _SMALL.get(self.word(ahead=1), 0)
        if self.word() != "and" or not count or self.word(ahead=2) not in (_PARTS if count == 1 else _PLURALS):
            return Fraction(0)
        self.skip(2)
        return self._part(count) or Fraction(0)
