"""What every engine that samples completions is asked, so that equal settings and seeds ask for equal completions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from peft import PeftModel

from lorapar.basemodel import NO_TOKEN, StopStrings
from lorapar.config import RlConfig

Made = tuple[list[list[int]], list[list[float]]]
"""Token numbers of each completion, and the natural log-probability of each of them."""


class Rollouts(Protocol):
    """Completions of an adapter as it is at a step, with the log-probabilities they were sampled with."""

    bound: float | None
    """Mean difference from the trainer's log-probabilities that is taken for rounding, in nats; None: any."""

    def complete(
        self,
        model: PeftModel,
        step: int,
        prompts: Sequence[Sequence[int]],
        stops: Sequence[int],
        strings: StopStrings | None = None,
        *,
        seed: int | None = None,
    ) -> Made:
        """One completion of each prompt, by the adapter of `model` at this step.

        Args:
            model: whose adapter is read.
            step: optimiser steps made so far; numbers the adapter, and with the seed and the place of a prompt decides
                what is sampled.
            prompts: token numbers; groups are equal prompts next to each other.
            stops: tokens that end a completion; the one that ended it is part of it.
            strings: texts that end one too; what comes behind the token that completes one is left to the caller.
            seed: None: the job's own.
        """
        ...


def sampling_of(
    config: RlConfig, stops: Sequence[int], strings: StopStrings | None, seed: int, step: int, place: int
) -> dict[str, Any]:
    """How vLLM samples one completion, in the words that its sampling parameters and its server share.

    `place` is that of the prompt in the step, counted over all processes that train.
    """
    ends = [stop for stop in stops if stop != NO_TOKEN]
    texts = {"skip_special_tokens": False, "stop": list(strings.texts)} if strings else {}
    return {
        "max_tokens": config.max_completion_length,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "stop_token_ids": ends,
        "ignore_eos": not ends,  # without any vLLM would stop at the token that the model names
        "seed": random.Random(f"{seed} {step} {place}").getrandbits(31),
        **texts,
    }
