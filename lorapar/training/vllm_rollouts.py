"""Rollouts by vLLM: the engine holds the unmodified base model and is handed the adapter again for every generation.

TRL's own way (`use_vllm`) merges the adapter into the base, copies the merged weights and subtracts the adapter again;
in bfloat16 the base is another one afterwards, and a 4-bit base cannot be merged into at all. An adapter here is plain
LoRA for the unmodified base at any time of its training, so the engine reads it as it reads any other.

On a GPU the engine sleeps while the adapter learns: its weights are kept in the machine's memory, its cache is dropped.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from peft import PeftModel

from lorapar.adapter import rank_in, save_adapter
from lorapar.basemodel import StopStrings
from lorapar.config import EngineOptions, RlConfig, lora_slot
from lorapar.errors import BadInputError
from lorapar.training.sampling import Made, sampling_of
from lorapar.training.session import TrainingJob
from lorapar.voting.vllm_teacher import shut_down, start_llm

_SLOTS = 1
"""The base itself is never asked."""
_LEVEL = 1
"""Of sleep: weights go to the machine's memory and come back; at level 2 they would have to be read anew."""


@contextmanager
def vllm_rollouts(job: TrainingJob, config: RlConfig) -> Iterator[VllmRollouts]:
    """An engine for one run of training, stopped after the block. Raises BadInputError where vLLM cannot start."""
    slot = lora_slot(rank_in(job.adapter), "rl.rollouts")
    options = config.vllm or EngineOptions()
    sleeps = is_to_sleep(options)
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
        **({"enable_sleep_mode": True} if sleeps else {}),
    )
    try:
        if sleeps:
            llm.sleep(level=_LEVEL)  # until the first generation the trainer's model is loaded in its place
        yield VllmRollouts(llm, config, job, sleeps=sleeps)
    finally:
        shut_down(llm)


def is_to_sleep(options: EngineOptions) -> bool:
    """Whether the engine sleeps while the adapter learns; raises BadInputError where it is to and cannot."""
    if options.sleep and not torch.cuda.is_available():
        raise BadInputError(
            "rl.vllm.sleep: vLLM's sleep mode gives GPU memory back, and no GPU is visible here; leave it out"
        )
    return torch.cuda.is_available() if options.sleep is None else options.sleep


@contextmanager
def awake(llm: Any, *, sleeps: bool) -> Iterator[None]:
    """Within the block an engine that sleeps is awake; it goes back to sleep whatever happens there."""
    if not sleeps:
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()  # what learning has left in torch's own cache is the room that the engine needs
    llm.wake_up()
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the engine may be gone; what happened in the block is what counts
            llm.sleep(level=_LEVEL)
        raise
    llm.sleep(level=_LEVEL)


class VllmRollouts:
    """Completions of an adapter as it is at a step, with the log-probabilities they were sampled with."""

    def __init__(self, llm: Any, config: RlConfig, job: TrainingJob, *, sleeps: bool = False) -> None:
        self._llm, self._config, self._seed, self._sleeps = llm, config, job.seed, sleeps
        self.bound = config.max_rollout_difference
        self._folder = job.scratch / "rollouts"

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
        """See `lorapar.training.sampling.Rollouts`."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        seed, folder = self._seed if seed is None else seed, self._folder / str(step)
        save_adapter(model, folder)
        asked = [
            SamplingParams(
                **sampling_of(self._config, stops, strings, seed, step, place),
                logprobs=0,
                detokenize=bool(strings),
            )
            for place in range(len(prompts))
        ]
        # Numbered by the step: completions of an earlier adapter's prompts are in the prefix cache under its number.
        request = LoRARequest(f"step-{step}", step + 1, str(folder))
        questions = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        with awake(self._llm, sleeps=self._sleeps):
            outputs = self._llm.generate(questions, asked, use_tqdm=False, lora_request=request)
        shutil.rmtree(folder)
        return [list(output.outputs[0].token_ids) for output in outputs], [_log_probs(output) for output in outputs]


def _log_probs(output: Any) -> list[float]:
    one = output.outputs[0]
    return [float(found[token].logprob) for token, found in zip(one.token_ids, one.logprobs, strict=True)]
