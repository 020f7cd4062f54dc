"""Rollouts by vLLM: the engine holds the unmodified base model and is handed the adapter again for every generation.

TRL's own way (`use_vllm`) merges the adapter into the base, copies the merged weights and subtracts the adapter again;
in bfloat16 the base is another one afterwards, and a 4-bit base cannot be merged into at all. An adapter here is plain
LoRA for the unmodified base at any time of its training, so the engine reads it as it reads any other.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftModel

from lorapar.adapter import save_adapter
from lorapar.basemodel import NO_TOKEN, StopStrings
from lorapar.config import RlConfig, VllmOptions
from lorapar.errors import BadInputError
from lorapar.training.session import TrainingJob
from lorapar.voting.vllm_teacher import shut_down, slot_rank, start_llm

_MEMORY_SHARE = 0.3
"""Of the GPU's memory, where the settings give no other: the trainer holds the base model a second time."""
_SLOTS = 1
"""The base itself is never asked."""


@contextmanager
def vllm_rollouts(job: TrainingJob, config: RlConfig) -> Iterator[VllmRollouts]:
    """An engine for one run of training, stopped after the block. Raises BadInputError where vLLM cannot start."""
    rank = int(json.loads((job.adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    slot = slot_rank(rank)
    if slot is None:
        raise BadInputError(f"rl.rollouts: the adapter has rank {rank}, more than vLLM takes; use transformers")
    options = config.vllm or VllmOptions(gpu_memory_utilization=_MEMORY_SHARE)
    longest = options.max_model_len or config.max_prompt_length + config.max_completion_length
    llm = start_llm(
        job.model,
        options.model_copy(update={"max_model_len": longest}),
        job.progress,
        enable_lora=True,
        max_loras=_SLOTS,
        max_lora_rank=slot,
        seed=job.seed,
        # Log-probabilities after the temperature, which is what the trainer's are compared with.
        logprobs_mode="processed_logprobs",
    )
    try:
        yield VllmRollouts(llm, config, job)
    finally:
        shut_down(llm)


class VllmRollouts:
    """Completions of an adapter as it is at a step, with the log-probabilities they were sampled with."""

    def __init__(self, llm: Any, config: RlConfig, job: TrainingJob) -> None:
        self._llm, self._config, self._seed = llm, config, job.seed
        self.bound = config.max_rollout_difference
        """Mean difference from the trainer's log-probabilities that is taken for rounding, in nats; None: any."""
        self._folder = job.scratch / "rollouts"

    def complete(
        self,
        model: PeftModel,
        step: int,
        prompts: Sequence[Sequence[int]],
        stops: Sequence[int],
        strings: StopStrings | None = None,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """One completion of each prompt, by the adapter of `model` at this step.

        Args:
            model: whose adapter is read.
            step: optimiser steps made so far; numbers the adapter, and with the job's seed and the place of a prompt
                decides what is sampled.
            prompts: token numbers; groups are equal prompts next to each other.
            stops: tokens that end a completion; the one that ended it is part of it.
            strings: texts that end one too; what comes behind the token that completes one is left to the caller.

        Returns:
            Token numbers of each completion, and the natural log-probability of each of them.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        ends = [stop for stop in stops if stop != NO_TOKEN]
        folder = self._folder / str(step)
        save_adapter(model, folder)
        asked = [
            SamplingParams(
                max_tokens=self._config.max_completion_length,
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                logprobs=0,
                stop_token_ids=ends,
                ignore_eos=not ends,  # without any vLLM would stop at the token that the model names
                seed=random.Random(f"{self._seed} {step} {place}").getrandbits(31),
                **(strings.for_vllm() if strings else {"detokenize": False}),
            )
            for place in range(len(prompts))
        ]
        # Numbered by the step: completions of an earlier adapter's prompts are in the prefix cache under its number.
        request = LoRARequest(f"step-{step}", step + 1, str(folder))
        questions = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        outputs = self._llm.generate(questions, asked, use_tqdm=False, lora_request=request)
        shutil.rmtree(folder)
        return [list(output.outputs[0].token_ids) for output in outputs], [_log_probs(output) for output in outputs]


def _log_probs(output: Any) -> list[float]:
    one = output.outputs[0]
    return [float(found[token].logprob) for token, found in zip(one.token_ids, one.logprobs, strict=True)]
