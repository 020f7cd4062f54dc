"""GRPO whose completions come from vLLM, in this process or elsewhere, and the proof that they are the adapter's."""

from __future__ import annotations

from typing import Any

import torch

from lorapar.errors import TrainingError
from lorapar.ranks import Ranks
from lorapar.training.ranks import OtherRankError
from lorapar.training.rollouts import ended_by_text
from lorapar.training.sampling import Rollouts
from lorapar.training.trainers import CarefulGRPOTrainer

_NOT_ITS_OWN = (
    "set rl.rollouts to transformers, or try another version of vLLM (a larger rl.max_rollout_difference only where "
    "both sides are known to round this much)"
)
UNLEARNED = "sampling/unlearned_share"
"""What the logs call the share of completions that are too unlike the trainer's to be learned from."""
_NOISE = 1e-3
"""Differences of log-probabilities that say nothing about whose they are."""
_NEARER = 0.5
"""Share of the distance to the adapter below which completions are the base model's."""


class EngineGRPOTrainer(CarefulGRPOTrainer):
    """A GRPOTrainer whose completions come from an engine of vLLM that is handed the adapter.

    vLLM's numbers are not the trainer's to the last bit. TRL weighs every completion by how likely it is to the trainer
    as against the engine that sampled it, and leaves out those for which that is far from 1.
    """

    def __init__(self, *args: Any, rollouts: Rollouts, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rollouts = rollouts
        self.sampling_seed: int | None = None
        """What is sampled follows from it, step and place; None: from the run's seed."""
        # After the constructor, which would start an engine of TRL's own; from here on it says only that completions
        # come with the log-probabilities they were sampled with.
        self.use_vllm = True

    def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **more: Any) -> Any:
        step = int(self.state.global_step)
        made = self._rollouts.complete(
            self.model, step, prompt_ids, self.eos_token_ids, self._strings, seed=self.sampling_seed
        )
        return ended_by_text(made, self._strings)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """As TRL's; raises TrainingError where the engine's completions are not those of the adapter as it is now."""
        made = super()._generate_and_score_completions(inputs)
        if "importance_sampling_ratio" in made:
            unlearned = unlearned_completions(made["importance_sampling_ratio"], made["completion_mask"].bool())
            share = self.accelerator.gather(unlearned).float().mean()
            self._metrics["train"][UNLEARNED].append(float(share))
        if self._rollouts.bound is not None:
            self._check_sampled(made, self._rollouts.bound)
        return made

    @torch.no_grad()
    def _check_sampled(self, made: dict[str, Any], bound: float) -> None:
        """Compare log-probabilities (N, C) of the engine with the trainer's, and with those of the bare base model.

        An engine that dropped the adapter is far from the trainer only once the adapter is far from the base; before,
        it is told by being nearer to the base than to the adapter. Several processes look, and end, together.
        """
        sampled, mask = made["sampling_per_token_logps"], made["completion_mask"].bool()
        few = slice(0, self.args.per_device_train_batch_size)
        theirs = _difference(sampled, made["old_per_token_logps"], mask)
        over, unsure = Ranks.here().any(theirs > bound, theirs >= _NOISE and bool(mask[few].any()))
        where = f"step {int(self.state.global_step) + 1}"
        if over:
            self._end(
                theirs > bound,
                f"{where}: the completions are not the adapter's: vLLM gave them other probabilities than the trainer, "
                f"by {theirs:.3g} nats a token (rl.max_rollout_difference is {bound:g}); {_NOT_ITS_OWN}",
            )
        if not unsure:
            return
        ids = torch.cat([made["prompt_ids"][few], made["completion_ids"][few]], dim=1)
        seen = torch.cat([made["prompt_mask"][few], made["completion_mask"][few]], dim=1)
        with self.model.disable_adapter():
            base = self._get_per_token_logps_and_entropies(self.model, ids, seen, mask.shape[1])[0]
        bare = _difference(sampled[few], base, mask[few])
        own = _difference(sampled[few], made["old_per_token_logps"][few], mask[few])
        if Ranks.here().any(nearer := theirs >= _NOISE and bare < own * _NEARER)[0]:
            self._end(
                nearer,
                f"{where}: the completions are not the adapter's but the base model's: vLLM's probabilities differ "
                f"from the base model's by {bare:.3g} nats a token and from the adapter's by {own:.3g}; {_NOT_ITS_OWN}",
            )

    def _end(self, here: bool, why: str) -> None:
        """Raise in every process; the one that has seen it says why."""
        raise TrainingError(why) if here else OtherRankError("the rollouts of another process are not the adapter's")


def unlearned_completions(ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Which completions TRL gives no weight at all, (N,), by the ratios that it keeps of them, (N, 1) or (N, C)."""
    return ((ratio == 0) | ~mask).all(dim=-1) & mask.any(dim=-1)


def _difference(sampled: torch.Tensor, scored: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean difference of log-probabilities (N, C) of the tokens that count; 0 where there is none."""
    found = (sampled - scored).abs()[mask]
    found = found[~torch.isnan(found)]  # a token that vLLM has no number for
    return float(found.mean()) if found.numel() else 0.0
