"""TRL's two trainers with what this project asks of both: stop at once on NaN, waste no step, phone nobody, resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import RepeatSampler

from lorapar.basemodel import NO_TOKEN, StopStrings
from lorapar.ranks import Ranks
from lorapar.training.arguments import schedule
from lorapar.training.checkpoint import (
    Checkpoints,
    RandomStates,
    extra_state,
    restore_optimizer,
    restore_rng,
    restore_schedule,
)
from lorapar.training.forward import IGNORED, number_positions, score_labelled_only
from lorapar.training.prompt_trees import PromptTrees, groups_together
from lorapar.training.ranks import KEPT, FilledSampler
from lorapar.training.rollouts import ended_by_text, shared_prompts
from lorapar.training.watch import KeptRollouts, Watch, check_finite, rollout_line

NO_SAY = "no_say"
"""Of a reward (or, without a name, of all of them), the completions of a step that it did not judge."""
_NO_TREES = (
    "rl.share_prompts: completions learn in rows of their own, because this model scores them differently where they "
    "share their prompt (linear attention, convolutions, or positions without numbers)"
)


class _Careful:
    """Mixed in before a TRL trainer; overrides what transformers' Trainer documents as made to be overridden."""

    section: str
    """The section of the settings that this trainer follows, for messages."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; raises TrainingError, before the optimiser steps, where it is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        check_finite(loss, self.model, self.where(self.state.global_step + 1))  # type: ignore[attr-defined]
        return loss

    def where(self, step: int) -> str:
        """A step by its number, and what to do where something is not finite in it."""
        rate = self.args.learning_rate  # type: ignore[attr-defined]
        return f"step {step}; lower {self.section}.learning_rate (now {rate:g}), or set model.dtype to float32"

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule the settings name, without a step whose learning rate is 0."""
        self.lr_scheduler = schedule(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            name=self.args.lr_scheduler_type,  # type: ignore[attr-defined]
            rising=self.args.get_warmup_steps(num_training_steps),  # type: ignore[attr-defined]
            steps=num_training_steps,
        )
        return self.lr_scheduler

    def save_to(self, checkpoints: Checkpoints, watch: Watch) -> None:
        """Where checkpoints go, and what holds the part of the state that is not the trainer's."""
        self._checkpoints, self._watch = checkpoints, watch

    def go_on_after(self, steps: int) -> None:
        """Training begins, after so many steps of an earlier call."""

    def extra_state(self) -> dict[str, Any]:
        """What a method keeps between steps beside optimiser and schedule, in JSON's words."""
        return {}

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **given: Any) -> None:
        """As transformers', whose 5.23 does not tell the sampler its epoch where several processes go on inside one: it
        lies too deep in accelerate's wrappers then.
        """
        batches: Any = getattr(train_dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):
            batches = batches.batch_sampler
        sampler: Any = getattr(batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **given)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """In place of pickles and model cards; transformers calls it after a step where a callback asked for it."""
        self._checkpoints.save(self, self._watch)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._checkpoints.restore_adapter(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_optimizer(self.optimizer, Path(checkpoint))  # type: ignore[attr-defined]
            restore_schedule(self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # Called when the data has been wound forward to its place, which draws random numbers.
        if checkpoint is not None:
            restore_rng(Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: training is never in float16."""

    def _send_telemetry(self) -> None:
        """TRL would report every run to the hub; a person's training is their own affair."""


class CarefulSFTTrainer(_Careful, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer; the output head is computed for answers only."""

    section = "sft"

    def __init__(self, *args: Any, split_by_length: bool = False, **kwargs: Any) -> None:
        """As TRL's; `split_by_length`: see `score_labelled_only`."""
        super().__init__(*args, **kwargs)
        score_labelled_only(self.model.get_base_model(), split_by_length=split_by_length)
        if Ranks.here().count > 1:
            self.train_dataset: Dataset = _with_filler(self.train_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As transformers'; several processes get as many batches each, which accelerate would fill with old rows."""
        count = Ranks.here().count
        if count == 1:
            return super()._get_train_sampler(train_dataset)
        rows = len(train_dataset or self.train_dataset) - 1
        return FilledSampler(rows, self.args.train_batch_size * count, self.args.data_seed)


def _with_filler(data: Dataset) -> Dataset:
    """The rows, and one more without a label for FilledSampler; TRL has left out such rows when it was given them."""
    row = data[0]
    filler = Dataset.from_list([{**row, "labels": [IGNORED] * len(row["labels"])}], features=data.features)
    return concatenate_datasets([data, filler])


class RowAverageSFTTrainer(CarefulSFTTrainer):
    """An SFTTrainer whose loss is a mean over rows, each row's loss a mean over its answer tokens.

    TRL's own mean over tokens lets ten long answers outweigh a hundred short ones. Where System 2 rows are mixed into
    System 1's, as a warm-up for RL, that is not what a person who counts rows means.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the rows of one forward pass (N rows, L tokens), as a share of the whole optimiser step.

        With several processes `num_items_in_batch` is the number of forward passes of all of them that have rows.
        """
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        answered = outputs.label_mask.sum(-1).clamp(min=1)  # (N,)
        rows = -outputs.log_probs.sum(-1) / answered  # (N,); log_probs is 0 on ignored positions of (N, L)
        count = Ranks.here().count
        if count > 1:
            filled = outputs.label_mask.any(-1).sum().clamp(min=1)
            loss = rows.sum() / filled / num_items_in_batch * count  # DDP takes the mean over processes
        else:
            # With num_items_in_batch the trainer leaves gradient accumulation to the loss.
            passes = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = rows.mean() / passes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if Ranks.here().count == 1:
            return super()._get_num_items_in_batch(batch_samples, device)
        passes = sum(bool(batch["labels"].ne(IGNORED).any()) for batch in batch_samples)
        return self.accelerator.gather(torch.tensor(passes, device=device)).sum()


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, whose order is that of its epoch and not that of the epochs before in this very process."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader at the beginning of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Row numbers, each as often as it has completions, each group as often as it is looked at."""
        self.generator.manual_seed(self.seed + self.epoch)
        yield from super().__iter__()


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Set to 0 whatever share a model leaves out at random while it is trained: of numbers, or of layers.

    TRL 1.16 does so for `torch.nn.Dropout` only. XGLM, OPT, BLOOM and MPT hold the share as a number (`dropout`,
    `hidden_dropout`, `layerdrop`) for `torch.nn.functional.dropout`, Falcon reads it from its configuration.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            held = vars(holder) if holder is not None else {}
            for name in [name for name, value in held.items() if "drop" in name and type(value) is float]:
                setattr(holder, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


class CarefulGRPOTrainer(_Careful, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer; the completions of a prompt share the forward pass over it, in sampling and in learning."""

    section = "rl"
    _buffered_inputs: list[dict[str, Any]] | None
    """TRL's: what is still to be learned from the completions of a generation, a part a forward pass."""

    def __init__(
        self,
        *args: Any,
        share_prompts: bool = True,
        keep_order: bool = False,
        log: Callable[[str], None] = print,
        **kwargs: Any,
    ) -> None:
        """As TRL's; with `share_prompts` a prompt is computed once for its completions, or `log` gets why not.

        `keep_order`: the loss depends on which completions stand together in a forward pass, so TRL's order is kept.
        """
        super().__init__(*args, **kwargs)
        base = self.model.get_base_model()
        score_labelled_only(base)
        number_positions(base)
        switch_off_dropout(base)
        self._shares, self._log_line, self._keeps_order = share_prompts, log, keep_order
        self._trees = PromptTrees(base)
        self.learns_from_trees: bool | None = None if share_prompts else False
        """Whether learning reads each prompt once; None until it is known."""
        self._together: list[dict[str, Any]] | None = None
        self.kept: KeptRollouts | None = None
        """Where some completions of every step are kept, with their rewards."""

    def end_completions(self, stops: Sequence[int], strings: StopStrings | None = None) -> None:
        """The tokens and texts that end a completion; without any, every completion has the full length."""
        # With texts NO_TOKEN stands among the ends as what `LastToken` equals.
        self.eos_token_ids = [*stops, *([NO_TOKEN] if strings or not stops else [])]
        self._strings = strings
        self.generation_config.eos_token_id = self.generation_kwargs["eos_token_id"] = self.eos_token_ids

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As `_Careful`; completions that are still to be learned from are not saved, so there must be none."""
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every and self.state.global_step < self.state.max_steps:
            raise AssertionError(f"a checkpoint after {self._step} passes is inside a generation of {every}")
        super()._save_checkpoint(model, trial)

    def extra_state(self) -> dict[str, Any]:
        """Where the weight of the entropy bonus has moved to, and by which entropy."""
        if not self.use_adaptive_entropy:
            return {}
        last = self._last_world_entropy
        return {"entropy_coef": self.entropy_coef, "last_entropy": last if math.isfinite(last) else None}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (found := extra_state(Path(checkpoint))):
            self.entropy_coef = found["entropy_coef"]
            self._last_world_entropy = math.inf if found["last_entropy"] is None else found["last_entropy"]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """As TRL's; where a reward or a server fails, the state before this step is kept, for the next call."""
        before = RandomStates.now()
        try:
            return super()._generate_and_score_completions(inputs)
        except KEPT as error:
            done = int(self.state.global_step)
            if done:
                self._checkpoints.save(self, self._watch, before)
            kept = f"the state after step {done} is kept and" if done else "nothing was trained yet, and"
            raise type(error)(f"{error} (at step {done + 1}); {kept} the same command goes on from there") from error

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """As TRL's: (completions, rewards), NaN where a reward does not judge; counts those for the history."""
        found: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        silent = torch.isnan(found)
        counts = {
            **dict(zip(self.reward_func_names, silent.sum(0).tolist(), strict=True)),
            "": silent.all(1).sum().item(),
        }
        for name, count in counts.items():
            self._metrics["train"][f"{NO_SAY}/{name}"].append(float(count))
        self._keep_rollouts(inputs, completions, completion_ids_list, found)
        return found

    def go_on_after(self, steps: int) -> None:
        """Completions of steps that are made again are kept again."""
        if self.kept is not None:
            self.kept.resume(steps)

    def _keep_rollouts(self, rows: Any, completions: Any, ids: Any, found: torch.Tensor) -> None:
        """Some of this process's completions; `found` (completions of all processes, rewards)."""
        if self.kept is None or not self.accelerator.is_main_process:
            return
        values, weights = found.tolist(), self.reward_weights.tolist()
        lines = []
        for place in self.kept.places(len(completions)):
            pairs = zip(self.reward_func_names, zip(values[place], weights, strict=True), strict=True)
            ended = len(ids[place]), ids[place][-1] not in self.eos_token_ids
            step = int(self.state.global_step) + 1
            lines.append(rollout_line(step, rows[place], completions[place], ended, dict(pairs)))
        self.kept.keep(lines)

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        sampler = super()._get_train_sampler(dataset)
        return EpochSampler(
            sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *rest: Any, **more: Any
    ) -> Any:
        with shared_prompts(self.model, num_generations if self._shares else 1, self._strings):
            made = super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *rest, **more)
        return ended_by_text(made, self._strings)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, which shuffles completions before it splits them: here the groups stay together, to be shared."""
        inputs = super()._prepare_inputs(generation_batch)
        made = self._buffered_inputs
        if not self._shares or made is None or made is self._together or self._keeps_order:
            return inputs
        self._buffered_inputs = self._together = groups_together(made)
        return self._together[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> Any:
        """As TRL's, (rows, logits_to_keep) each: every prompt that rows of one forward pass share is read once."""
        plain = partial(super()._get_per_token_logps_and_entropies, model)
        rows_at_once = batch_size or len(input_ids)
        if any(value is not None and value is not False for value in others.values()) or not self._has_trees(plain):
            return plain(input_ids, attention_mask, logits_to_keep, rows_at_once, compute_entropy, **others)
        parts = []
        for start in range(0, len(input_ids), rows_at_once):
            ids, mask = input_ids[start : start + rows_at_once], attention_mask[start : start + rows_at_once]
            with self.accelerator.autocast():
                found = self._trees.score(model, ids, mask, logits_to_keep)
            parts.append(found or plain(ids, mask, logits_to_keep, None, True)[:2])
        log_probs, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_probs, entropies if compute_entropy else None, None

    @torch.no_grad()
    def _has_trees(self, plain: Callable[..., Any]) -> bool:
        """Whether the settings want prompts shared in learning, and the model was seen to allow it."""
        if self.learns_from_trees is None:
            with self.accelerator.autocast():
                self.learns_from_trees = self._trees.fits(self.model, lambda *rows: plain(*rows)[0])
            if not self.learns_from_trees:
                self._log_line(_NO_TREES)
        return self.learns_from_trees
