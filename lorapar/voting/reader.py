"""Shared by the backends that read a model's probabilities on this machine: from examples to tokens, and to votes.

Prompt and label words are split where the label words begin. Each backend encodes with the teacher's own tokenizer
through `Reader`, so all of them give a model the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import TYPE_CHECKING

from lorapar import prompts
from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.teacher import Prompt, label_of, render, template_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Choice:
    """One prompt with the words that may follow it, as token ids."""

    prompt: tuple[int, ...]
    words: Mapping[System, tuple[int, ...]]
    """Tokens of each label word; none is empty, and none is a prefix of another."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest word."""
        return len(self.prompt) + max(len(word) for word in self.words.values())


def encode(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Prompt]) -> list[Choice]:
    """Token ids of each prompt and its continuations.

    The whole text is tokenised once with each continuation, as in lm-evaluation-harness, so a word has its tokens for
    that place. A token that spans prompt and word counts as the word's, equally for all words. Raises BadInputError
    where the words cannot be distinguished.
    """
    if not rendered:
        return []
    texts = [_text(tokenizer, prompt) for prompt in rendered]
    # A chat template writes special tokens itself.
    special = rendered[0].messages is None
    alone = tokenizer(texts, add_special_tokens=special)["input_ids"]
    with_word = {}
    systems = tuple(rendered[0].continuations)
    for system in systems:
        whole = [text + prompt.continuations[system] for text, prompt in zip(texts, rendered, strict=True)]
        with_word[system] = tokenizer(whole, add_special_tokens=special)["input_ids"]
    return [
        _split(prompt, alone[row], {system: with_word[system][row] for system in systems})
        for row, prompt in enumerate(rendered)
    ]


def common_prefix(*rows: Sequence[int]) -> int:
    """Number of leading tokens that all rows share."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False)))


def _text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else prompts.render(tokenizer, prompt.messages or ())


def _split(prompt: Prompt, alone: list[int], whole: dict[System, list[int]]) -> Choice:
    for pair in combinations(whole, 2):
        first, second = (whole[system] for system in pair)
        shorter = min(len(first), len(second))
        if first[:shorter] == second[:shorter]:
            one, other = (prompt.continuations[system].strip() for system in pair)
            raise BadInputError(
                f"label_words: '{one}' and '{other}' cannot be told apart, the tokens of one begin those of the other; "
                "choose words of which neither begins the other"
            )
    start = len(alone)
    if any(ids[:start] != alone for ids in whole.values()):  # rare, and slow to count token by token
        start = common_prefix(alone, *whole.values())
    return Choice(tuple(alone[:start]), {system: tuple(ids[start:]) for system, ids in whole.items()})


class Reader:
    """One teacher's prompts and votes; `target` is the role-played model as `templates.target_text` writes it.

    `longest` is how many tokens the model reads, prompt and label word together; None where that is unknown.
    """

    def __init__(
        self,
        config: TeacherConfig,
        tokenizer: PreTrainedTokenizerBase,
        longest: int | None,
        *,
        target: str,
        role_play: bool,
    ) -> None:
        self.config = config
        self.template = template_digest(config.template, target, role_play)
        self._tokenizer = tokenizer
        self._longest = longest
        self._target = target
        self._role_play = role_play

    def choices(self, examples: Sequence[Example]) -> list[Choice]:
        """Prompt and label words of each example as token ids; raises BadInputError for a row that is too long."""
        rendered = [render(self.config.template, example, self._target, self._role_play) for example in examples]
        choices = encode(self._tokenizer, rendered)
        for example, choice in zip(examples, choices, strict=True):
            if self._longest is not None and choice.length > self._longest:
                raise BadInputError(
                    f"teacher '{self.config.name}': row {example.id} has {choice.length} tokens with the teacher's "
                    f"template, and its model reads {self._longest}; shorten the row or leave it out"
                )
        return choices

    def vote(self, example: Example, choice: Choice, log_probs: Mapping[System, float]) -> Vote:
        """The vote for the likelier label word; raises BadInputError for log-probabilities that are not finite."""
        if not all(math.isfinite(value) for value in log_probs.values()):
            raise BadInputError(
                f"teacher '{self.config.name}': the log-probabilities of row {example.id} are not finite; its weights "
                f"are damaged or {self.config.dtype} is too narrow for them, try dtype float32"
            )
        label, confidence = label_of(log_probs)
        return Vote(
            example_id=example.id,
            teacher=self.config.name,
            label=label,
            weight=self.config.weight,
            confidence=confidence,
            log_probs={str(system): value for system, value in log_probs.items()},
            template=self.template,
            raw=self.config.template.label_words[label].strip(),
            tokens=len(choice.prompt) + len(choice.words[label]),
        )
