"""The `vllm` backend: a teacher that vLLM runs in this process, read in the same way as the transformers one.

A vote is the likelier of the two label words, by the log-probabilities of the words' tokens before any mask; nothing is
generated, so nothing can fall outside the labels. Words of one token take one question a row. Longer ones take one
for each place where their tokens still have to be read, and these share the prompt in vLLM's prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.encoding import Choice
from lorapar.voting.reader import Reader
from lorapar.voting.vllm_engine import EngineError, NextTokens, VllmEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW_ROWS = 256
"""Rows that are tokenised together."""

Tokens = tuple[int, ...]


class VllmTeacher:
    """One teacher on a running engine (a `lorapar.voting.teacher.Teacher`); several may share the engine.

    `target` is the role-played model as `templates.target_text` writes it.
    """

    def __init__(
        self,
        config: TeacherConfig,
        engine: VllmEngine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        target: str,
        role_play: bool,
    ) -> None:
        self.config = config
        self._engine = engine
        self._reader = Reader(config, tokenizer, engine.longest, target=target, role_play=role_play)

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example that is not in `done`, as the engine answers.

        Raises BadInputError for a row that is longer than the model reads, and where engine or numbers give out.
        """
        asked = [example for example in examples if example.id not in done]
        sheet = _Sheet()
        try:
            for key, log_probs in self._engine.log_probs(self._questions(asked, sheet)):
                finished = sheet.fill(key, log_probs)
                if finished is not None:
                    yield self._reader.vote(asked[key.row], *finished)
        except EngineError as error:
            raise BadInputError(f"teacher '{self.config.name}': {error}") from error

    def _questions(self, examples: Sequence[Example], sheet: _Sheet) -> Iterator[NextTokens[Place]]:
        for start in range(0, len(examples), WINDOW_ROWS):
            for row, choice in enumerate(self._reader.choices(examples[start : start + WINDOW_ROWS]), start):
                sheet.choices[row] = choice
                for after, wanted in places(choice).items():
                    yield NextTokens(Place(row, after), choice.prompt + after, wanted)


class Place(NamedTuple):
    """Where a row's label words are read."""

    row: int
    after: Tokens
    """The word tokens that come before."""


class _Sheet:
    """What has been read of the rows on the way."""

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}
        self._read: dict[int, dict[Tokens, dict[int, float]]] = {}

    def fill(self, place: Place, log_probs: dict[int, float]) -> tuple[Choice, dict[System, float]] | None:
        """Note an answer; once it was the row's last, its choice and its label words' log-probabilities."""
        read = self._read.setdefault(place.row, {})
        read[place.after] = log_probs
        if len(read) < len(places(self.choices[place.row])):
            return None
        choice = self.choices.pop(place.row)
        return choice, word_log_probs(choice, self._read.pop(place.row))


def places(choice: Choice) -> dict[Tokens, Tokens]:
    """Where label words have to be read: the word tokens that come before, and the tokens wanted there."""
    wanted: dict[Tokens, dict[int, None]] = {}
    for word in choice.words.values():
        for length, token in enumerate(word):
            wanted.setdefault(word[:length], {})[token] = None
    return {after: tuple(tokens) for after, tokens in wanted.items()}


def word_log_probs(choice: Choice, read: dict[Tokens, dict[int, float]]) -> dict[System, float]:
    """Log-probability of each whole label word, from those of its tokens."""
    return {
        system: sum(read[word[:length]][token] for length, token in enumerate(word))
        for system, word in choice.words.items()
    }
