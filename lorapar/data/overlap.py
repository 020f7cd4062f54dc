"""Training rows whose question occurs in evaluated rows: 13 consecutive words, as for GPT-3 and The Pile.

Words that many rows share do not count: an instruction at the head of every row, or a common phrase. Brown et al. 2020
(appendix C) ignore 13-grams that occur in more than 10 rows. A whole question of 13 words or more counts even
then, with whatever is around it, unless most rows hold it or several evaluated rows ask it. Shorter questions count
where they are equal. Signs of calculations and decimal points count as well: `2 - 2` is not `2 + 2`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorapar.records import Example

NGRAM = 13
_COMMON = 10
# Chinese and Japanese are written without blanks: each character counts as a word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
_TOKEN = re.compile(
    rf"(?P<word>{_WORD.pattern})|(?<=[0-9])\.(?=[0-9])|(?P<percent>(?<=[0-9])\s?\\?%)"
    r"|(?P<power>(?<=[0-9a-z)\]}])(?:\*\*|\s\*\*\s)(?=[-(0-9a-z]))|(?P<bold>\*\*+)"
    r"|[<>]=|!=|[-+*/^=<>\u00d7\u00f7\u00b7\u2010-\u2015\u2212\u2264\u2265\u221a]"
    r"|\\(?:times|cdot|div|pm|le|ge|sqrt)(?![a-z])|(?<=[0-9a-z])!(?=[-?+*/)=$])"
)
_ONE_OPERATOR = {
    **dict.fromkeys(("\u00d7", "\u00b7", "\\times", "\\cdot"), "*"),
    **{
        "\u00f7": "/",
        "\\div": "/",
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        "\\le": "<=",
        "\u2264": "<=",
        "\\ge": ">=",
        "\u2265": ">=",
    },
}
"""Ways of writing one operator."""
_ENDS_A_VALUE = re.compile(r"(?:[0-9]|(?<![^\W\d_])[^\W\d_]|[)\]}])(?:\*\*|[ \t$])*\Z")
_BEGINS_A_VALUE = re.compile(r"(?:\*\*|[\s$])*(?:[-+]?[0-9.(\[{\\]|[^\W\d_](?![^\W\d_]))")
_BETWEEN_VALUES = frozenset("-+*/^<>")
_DASHES = frozenset("\u2010\u2011\u2012\u2013\u2014\u2015")
_PARTED = re.compile(
    r"(?P<from>(?<=[0-9]{3})[ \t]*[-\u2010-\u2015\u2212][ \t]*(?=[0-9]{3}))"
    r"|(?<![\w.])(?:[0-9]{4}([-/.])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\3[0-9]{4})(?![\w])"
)
"""Dates, years that are a range, and telephone numbers: their signs calculate nothing."""
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-z])")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_BESIDE = 8
"""Characters that are looked at beside an operator."""


@dataclass(frozen=True)
class Overlap:
    """A training row and what it shares."""

    example_id: str
    measure: str
    """What contains the other row: `held-out rows`, or the name of a benchmark."""
    row: str
    """The other row."""
    words: str
    """The shared words, in lower case."""

    @property
    def line(self) -> str:
        """For a person."""
        return f"row {self.example_id} shares '{self.words}' with {self.measure}, row {self.row}"


def question_text(example: Example) -> str:
    """The user's messages of a row, without answers and system messages."""
    return " ".join([*(turn.content for turn in example.history or () if turn.role == "user"), example.question])


def overlaps(rows: Sequence[Example], evaluated: Mapping[str, Iterable[tuple[str, str]]]) -> list[Overlap]:
    """The rows that share 13 consecutive words, or a whole shorter question, with one of `evaluated`, once each.

    `evaluated` holds (row, question) of all evaluated rows, by `held-out rows` or the name of a benchmark.
    """
    asked = [(measure, name, question) for measure, texts in evaluated.items() for name, question in texts]
    places: dict[str, tuple[str, str]] = {}
    for measure, name, question in asked:
        for gram in _grams(_words(question)):
            places.setdefault(gram, (measure, name))
    texts = [_words(question_text(row)) for row in rows]
    shared = [[gram for gram in _grams(words) if gram in places] for words in texts]
    counts = Counter(gram for grams in shared for gram in set(grams))
    common = {gram for gram, count in counts.items() if _is_common(count, len(rows))}
    longer = _by_rarest_gram(_asked_once(asked, common)) if common else {}
    held = [
        _held(words, grams, longer) if common.issuperset(grams) else []
        for words, grams in zip(texts, shared, strict=True)
    ]
    holders = Counter(whole for wholes in held for whole in wholes)
    found = []
    for row, words, grams, wholes in zip(rows, texts, shared, held, strict=True):
        telling = [gram for gram in grams if gram not in common or gram == _whole(words)]
        telling += [whole for whole in wholes if not _is_in_most(holders[whole], len(rows))]
        if telling:
            found.append(Overlap(row.id, *places[telling[0]], telling[0].strip("\n")))
    return found


def has_words(text: str) -> bool:
    """Whether there is anything in a text that can be compared."""
    return any(any(character.isalpha() for character in word) for word in _WORD.findall(text))


def _is_common(count: int, rows: int) -> bool:
    return count > _COMMON or (count > 2 and 2 * count > rows)


def _is_in_most(count: int, rows: int) -> bool:
    return count > _COMMON and 2 * count > rows


def _asked_once(asked: Iterable[tuple[str, str, str]], common: set[str]) -> dict[str, list[str]]:
    """Whole questions of 13 words or more that hold common 13-grams alone, with these.

    What several rows of a measure ask is an instruction or a passage.
    """
    grams: dict[str, list[str]] = {}
    names: dict[tuple[str, str], str] = {}
    several: set[str] = set()
    for measure, name, question in asked:
        own = list(_grams(_words(question)))
        whole = own.pop(0) if own else ""
        if own and common.issuperset(own):
            grams[whole] = own
            if names.setdefault((measure, whole), name) != name:
                several.add(whole)
    return {whole: own for whole, own in grams.items() if whole not in several}


def _by_rarest_gram(grams: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Whole questions by the 13-gram in them that the fewest others have."""
    counts = Counter(gram for own in grams.values() for gram in set(own))
    found: dict[str, list[str]] = {}
    for whole, own in grams.items():
        found.setdefault(min(own, key=lambda gram: counts[gram]), []).append(whole)
    return found


def _held(words: list[str], grams: list[str], longer: Mapping[str, list[str]]) -> list[str]:
    """The whole questions that stand in a text."""
    text = f" {' '.join(words)} "
    wholes = dict.fromkeys(whole for gram in grams for whole in longer.get(gram, ()))
    return [whole for whole in wholes if _inside(whole) in text]


def _inside(whole: str) -> str:
    """A whole question as it stands within a longer text."""
    return f" {whole.strip(chr(10))} "


def _grams(words: list[str]) -> Iterator[str]:
    """The whole question, and all its 13-grams; what stands before the first word of one is not part of it."""
    if words:
        yield _whole(words)
    for start in range(len(words) - NGRAM + 1):
        first, *others = words[start : start + NGRAM]
        yield " ".join([first.split(" ")[-1], *others])


def _whole(words: list[str]) -> str:
    """A whole question, marked so that it never equals a 13-gram of a longer one."""
    return "\n" + " ".join(words) + "\n"


def _words(text: str) -> list[str]:
    """The words in small letters, with the operators before each, and `!` and `%` behind it: `2`, `+ 2`, `- 3!`."""
    text = _THOUSANDS.sub("", _one_form(text))
    text = _PARTED.sub(lambda one: " " if one["from"] else re.sub("[^0-9]", " ", one[0]), text.casefold())
    words: list[str] = []
    waiting = ""
    for one in _TOKEN.finditer(text):
        if one["word"]:
            words.append(waiting + one["word"])
            waiting = ""
        elif (one["percent"] or one[0] == "!") and words:
            words[-1] += one[0][-1]
        elif one["power"]:
            waiting += "^ "
        elif not one["bold"] and _is_operator(text, one):
            waiting += _ONE_OPERATOR.get(one[0], one[0]) + " "
    return words


def _one_form(text: str) -> str:
    """A text with one form for each character (full-width ones, accents in two parts) and each fraction of LaTeX."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)
    return _FRACTIONS.sub(r"\\frac", text) if "frac" in text else text


def _is_operator(text: str, found: re.Match[str]) -> bool:
    """Whether a sign calculates or compares, and is not a hyphen, bullet, tag or \"or\"."""
    if found[0] not in _BETWEEN_VALUES | _DASHES and found[0] not in "=\u2212":
        return True
    before, behind = text[max(0, found.start() - _BESIDE) : found.start()], text[found.end() : found.end() + _BESIDE]
    if found[0] in _DASHES:
        return before.rstrip(" ")[-1:].isdigit() and behind.lstrip(" ")[:1].isdigit()
    ends, begins = _ENDS_A_VALUE.search(before) is not None, _BEGINS_A_VALUE.match(behind) is not None
    if found[0] not in _BETWEEN_VALUES:
        return ends or begins
    is_sign = found[0] == "-" and behind[:1].isdigit() and not before[-1:].isalnum()
    return (ends and begins) or is_sign
