"""TRL's two trainers with what this project asks of both: stop at once on NaN, waste no step, phone nobody."""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer, SFTTrainer

from lorapar.training.schedule import schedule
from lorapar.training.watch import check_finite


class _Careful:
    """Mixed in before a TRL trainer; overrides what transformers' Trainer documents as made to be overridden."""

    section: str
    """The section of the settings that this trainer follows, for messages."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; raises TrainingError, before the optimiser steps, where it is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        rate = self.args.learning_rate  # type: ignore[attr-defined]
        where = (
            f"step {self.state.global_step + 1}; lower {self.section}.learning_rate (now {rate:g}), or hold the "  # type: ignore[attr-defined]
            "weights in model.dtype float32"
        )
        check_finite(loss, self.model, where)  # type: ignore[attr-defined]
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule the settings name, without a step whose learning rate is 0."""
        self.lr_scheduler = schedule(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            name=self.args.lr_scheduler_type,  # type: ignore[attr-defined]
            rising=self.args.get_warmup_steps(num_training_steps),  # type: ignore[attr-defined]
            steps=num_training_steps,
        )
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        """TRL would report every run to the hub; a person's training is their own affair."""


class CarefulSFTTrainer(_Careful, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer."""

    section = "sft"


class RowAverageSFTTrainer(CarefulSFTTrainer):
    """An SFTTrainer whose loss is a mean over rows, each row's loss a mean over its answer tokens.

    TRL's own mean over tokens lets ten long answers outweigh a hundred short ones. Where System 2 rows are mixed into
    System 1's, as a warm-up for RL, that is not what a person who counts rows means.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the rows of one forward pass (N rows, L tokens), as a share of the whole optimiser step."""
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        answered = outputs.label_mask.sum(-1).clamp(min=1)  # (N,)
        rows = -outputs.log_probs.sum(-1) / answered  # (N,); log_probs is 0 on ignored positions of (N, L)
        # With num_items_in_batch the trainer leaves gradient accumulation to the loss.
        passes = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        loss = rows.mean() / passes
        return (loss, outputs) if return_outputs else loss


class CarefulGRPOTrainer(_Careful, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer."""

    section = "rl"
