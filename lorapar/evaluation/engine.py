"""What a comparison needs of whatever runs the models: transformers in this process, or vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lm_eval.api.model import LM

Encoded = Mapping[str, list[int]]
"""Token ids of a prompt with its answer (`input_ids`), and `labels`: -100 where there is no loss."""


class AskedModel(Protocol):
    """The base model, or the base model with one adapter, ready to be asked."""

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most likely continuation of each prompt (token ids), up to and including its first stop token."""

    def losses(self, rows: Sequence[Encoded]) -> list[float]:
        """Mean cross-entropy of each row's labelled tokens, in nats."""

    def answer(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Encoded], max_new_tokens: int
    ) -> tuple[list[list[int]], list[float], float]:
        """What `generate` and `losses` give for the same rows, and the seconds that generating took."""

    def for_lm_eval(self, batch_size: int) -> LM:
        """The same model as lm-eval asks it."""


class Engine(Protocol):
    """One base model in memory, and adapters for it in turn."""

    @property
    def answers_by_batch(self) -> bool:
        """Whether an answer may depend on the rows that it is computed with, and those are chosen by the caller."""

    def asked(self, adapter: Path | None) -> AbstractContextManager[AskedModel]:
        """The base model with the adapter of a PEFT folder, or (None) by itself.

        Raises BadInputError where the folder holds no safetensors.
        """
