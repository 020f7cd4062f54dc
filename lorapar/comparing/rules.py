"""The three rules, and how each finds an answer in a longer text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, Protocol

from lorapar import answers
from lorapar.answers import References, all_references, extract_tagged
from lorapar.comparing.latex import MathTexts, as_list, decided, last_formula
from lorapar.comparing.math_workers import MathWorkers
from lorapar.errors import BadInputError
from lorapar.extras import pip_install
from lorapar.plain_text import plain_characters, without_markup
from lorapar.records import Omission

Pair = tuple[str, References]
"""A text and the references, of which any is right."""

_ENDS = ".,;:!?"


class AnswerRule(Protocol):
    """One way of comparing answers."""

    @property
    def name(self) -> str:
        """As the setting `answers` has it."""

    def is_answer(self, text: str, references: References) -> bool:
        """Whether a text is one of the right answers."""

    def are_answers(self, pairs: Sequence[Pair]) -> list[bool]:
        """`is_answer` of several, side by side where that saves time."""

    def is_found_in(self, text: str, references: References) -> bool:
        """Whether a text has one of the right answers in it, by laxer rules."""

    def undecided(self) -> Omission:
        """Comparisons that came to no end since the rule was made, and so counted as not equal."""


class ExactRule:
    """Numbers, letters of a choice and words, by `lorapar.answers`."""

    name = "exact"

    def is_answer(self, text: str, references: References) -> bool:
        """By `lorapar.answers.same_answer`."""
        return answers.is_answer(text, references)

    def are_answers(self, pairs: Sequence[Pair]) -> list[bool]:
        """Each by itself."""
        return [self.is_answer(*pair) for pair in pairs]

    def is_found_in(self, text: str, references: References) -> bool:
        """By `lorapar.answers.is_found_in`."""
        return answers.is_found_in(text, references)

    def undecided(self) -> Omission:
        """None: every comparison ends."""
        return _undecided(0, 0, "")


class TextRule:
    """The same text, apart from what `normalised` takes away."""

    name = "text"

    def is_answer(self, text: str, references: References) -> bool:
        """Whether the normalised texts are equal."""
        given = normalised(text)
        return given != "" and any(given == normalised(reference) for reference in all_references(references))

    def are_answers(self, pairs: Sequence[Pair]) -> list[bool]:
        """Each by itself."""
        return [self.is_answer(*pair) for pair in pairs]

    def is_found_in(self, text: str, references: References) -> bool:
        """Whether a normalised reference is in the normalised text, as whole words."""
        if self.is_answer(text, references):
            return True
        given = normalised(text)
        wanted = filter(None, map(normalised, all_references(references)))
        return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", given) for one in wanted)

    def undecided(self) -> Omission:
        """None: every comparison ends."""
        return _undecided(0, 0, "")


class MathRule:
    """`exact` first; then lorapar's rules for LaTeX; math-verify decides what they leave open."""

    name = "math"

    def __init__(self, workers: MathWorkers) -> None:
        self._workers = workers

    def is_answer(self, text: str, references: References) -> bool:
        """Whether the text is one of the references: exactly, or as an expression of the same value."""
        return self.are_answers([(text, references)])[0]

    def are_answers(self, pairs: Sequence[Pair]) -> list[bool]:
        """Comparisons that need math-verify are shared by several workers."""
        verdicts = [False] * len(pairs)
        asked: list[tuple[int, MathTexts]] = []
        for place, (text, references) in enumerate(pairs):
            for reference in all_references(references):
                found = decided(text, reference)
                if isinstance(found, bool):
                    verdicts[place] = verdicts[place] or found
                else:
                    asked.append((place, found))
        asked = [(place, texts) for place, texts in asked if not verdicts[place]]
        for (place, _), equal in zip(asked, self._workers.equal([texts for _, texts in asked]), strict=True):
            verdicts[place] = verdicts[place] or equal
        return verdicts

    def is_found_in(self, text: str, references: References) -> bool:
        """By `exact`, or where the text, its last answer in tags, or its last formula is one of the references."""
        references = tuple(map(as_list, all_references(references)))
        if answers.is_found_in(text, references):
            return True
        candidates = dict.fromkeys(filter(None, (extract_tagged(text), last_formula(text), text)))
        return any(self.are_answers([(candidate, references) for candidate in candidates]))

    def undecided(self) -> Omission:
        """Comparisons that took too long, or whose process died."""
        return _undecided(self._workers.undecided, self._workers.asked, self._workers.first_undecided)


EXACT: AnswerRule = ExactRule()


@contextmanager
def answer_rule(name: Literal["exact", "math", "text"]) -> Iterator[AnswerRule]:
    """The rule that the setting `answers` names; the processes of `math` start when needed and end with the block.

    Raises BadInputError where math-verify is not installed and `math` is asked for.
    """
    if name != "math":
        yield EXACT if name == "exact" else TextRule()
        return
    require_math_verify()
    with MathWorkers() as workers:
        yield MathRule(workers)


def require_math_verify() -> None:
    """Raise BadInputError where the package that `answers: math` needs is not there."""
    if find_spec("math_verify") is None:
        raise BadInputError(
            f"answers: math needs math-verify, which is not installed here; {pip_install('train,eval')}, or set "
            "answers to exact"
        )


def normalised(text: str) -> str:
    """A text for comparing: one character for each way of writing it, small letters, single spaces.

    Quotes, bold type and LaTeX's box around the whole are taken off, and `.,;:!?` at its end.
    """
    plain = plain_characters(text).strip().rstrip(_ENDS).casefold()
    return " ".join(without_markup(plain).split()).rstrip(_ENDS).rstrip()


def _undecided(count: int, total: int, first: str) -> Omission:
    return Omission(
        count=count,
        total=total,
        what="comparisons of answers count as not equal",
        why=f"math-verify came to no end within its limits (the first: {first})",
        remedy="write references in a simpler form, or set answers to exact",
    )
