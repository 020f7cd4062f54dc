"""What rewards may see of rows beside completions and references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Columns:
    """One entry a completion in each."""

    questions: Sequence[str]
    answers: Sequence[str]
    """The whole answer that the row holds."""
    prompts: Sequence[Any]
    """Chat messages."""
    completion_ids: Sequence[Sequence[int]]
    tests: Sequence[str | None] = ()
    """Python source that the completion's code has to pass; None for a row without."""

    @classmethod
    def for_trying(cls, completions: Sequence[str], answer: str) -> Columns:
        """Columns to try a reward out with: one token a character."""
        count = len(completions)
        return cls(
            questions=["3+4?"] * count,
            answers=[answer] * count,
            prompts=[[{"role": "user", "content": "3+4?"}]] * count,
            completion_ids=[[1] * len(text) for text in completions],
        )
