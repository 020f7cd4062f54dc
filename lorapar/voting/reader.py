"""What the backends share that read a model's probabilities on this machine: prompts as tokens in, votes out.

Each encodes prompts with the teacher's own tokenizer through this class, so all of them put the same tokens to a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, Vote
from lorapar.voting.encoding import Choice, encode
from lorapar.voting.teacher import label_of
from lorapar.voting.templates import render, template_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Reader:
    """One teacher's prompts and votes; `target` is the role-played model as `templates.target_text` writes it.

    `longest` is how many tokens the model reads, prompt and label word together; None where it does not say.
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
