"""Training rows whose question occurs in evaluated rows: 13 consecutive words, as for GPT-3 and The Pile.

Words that many rows share do not count: an instruction at the head of every row, or a common phrase. Brown et al. 2020
(appendix C) ignore 13-grams that occur in more than 10 rows. Shorter questions count where they are equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorapar.records import Example

NGRAM = 13
_COMMON = 10
# Chinese and Japanese are written without blanks: each character counts as a word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")


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
    places: dict[str, tuple[str, str]] = {}
    for measure, questions in evaluated.items():
        for name, question in questions:
            for gram in _grams(question):
                places.setdefault(gram, (measure, name))
    shared = [[gram for gram in _grams(question_text(row)) if gram in places] for row in rows]
    counts = Counter(gram for grams in shared for gram in set(grams))
    found = []
    for row, grams in zip(rows, shared, strict=True):
        own = _whole(question_text(row))
        telling = [gram for gram in grams if gram == own or not _is_common(counts[gram], len(rows))]
        if telling:
            found.append(Overlap(row.id, *places[telling[0]], telling[0].strip("\n")))
    return found


def _is_common(count: int, rows: int) -> bool:
    return count > _COMMON or (count > 2 and 2 * count > rows)


def _grams(question: str) -> Iterator[str]:
    """The whole question, and all its 13-grams."""
    words = _words(question)
    if words:
        yield _whole(question)
    for start in range(len(words) - NGRAM + 1):
        yield " ".join(words[start : start + NGRAM])


def _whole(question: str) -> str:
    """A whole question, marked so that it never equals a 13-gram of a longer one."""
    return "\n" + " ".join(_words(question)) + "\n"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
