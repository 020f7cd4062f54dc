"""What GRPO's loss is made of: TRL's own choices, under TRL's own names; the names of `trl.GRPOConfig` 1.16.

TRL takes what does not fit together and then leaves some of it out. Here that is an error, so that no setting is
without effect. `tests/config/test_policy.py` holds names, defaults and choices against the installed `GRPOConfig`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lorapar.config.base import Fraction, Positive, Rate, Section

_NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_CLIPPING = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Losses that clip the ratio of probabilities to 1 - epsilon and 1 + epsilon_high."""
_ADAPTIVE = ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target")


class PolicyConfig(Section):
    """The loss of GRPO, as TRL's `GRPOConfig` names it."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = Field(
        "dapo",
        description="The loss and how it is averaged: dapo over all tokens of a step; grpo, as in the paper, over each "
        "completion first, which favours short right and long wrong ones",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="What advantages are divided by")
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize", description="Weigh and add rewards before a group is normalised, or after (GDPO)"
    )
    num_iterations: Positive = Field(1, description="Optimiser steps that learn from the same completions")
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="What a ratio of probabilities is of: each token, or the whole completion (GSPO)"
    )
    epsilon: Rate = Field(0.2, description="How far below 1 a ratio may be before it is clipped, and above it too")
    epsilon_high: Rate | None = Field(
        None, description="How far above 1, where not as far as below; of cispo the largest ratio itself (5.0)"
    )
    delta: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] | None = Field(
        None, description="Largest ratio where the advantage is negative, too (two-sided clipping)"
    )
    sapo_temperature_pos: Rate = Field(1.0, description="Of sapo: how sharply it gates tokens of positive advantage")
    sapo_temperature_neg: Rate = Field(1.05, description="Of sapo: the same for all others")
    vespo_k_pos: Rate = Field(2.0, description="Of vespo: exponent of the ratio where the advantage is positive")
    vespo_lambda_pos: Rate = Field(3.0, description="Of vespo: decay with the ratio where the advantage is positive")
    vespo_k_neg: Rate = Field(3.0, description="Of vespo: exponent of the ratio where the advantage is negative")
    vespo_lambda_neg: Rate = Field(2.0, description="Of vespo: decay with the ratio where the advantage is negative")
    mask_truncated_completions: bool = Field(
        False, description="Learn nothing from completions that were cut off at the limit"
    )
    off_policy_mask_threshold: Rate | None = Field(
        None, description="Leave out bad completions that have become less probable than this KL allows"
    )
    use_bias_correction_kl: bool = Field(True, description="Weigh the KL term by the ratio, which makes it unbiased")
    top_entropy_quantile: Fraction = Field(
        1.0, description="Share of the tokens, those of the highest entropy, that the loss learns from"
    )
    entropy_coef: _NotNegative = Field(0.0, description="Weight of a bonus on the entropy of the tokens")
    use_adaptive_entropy: bool = Field(
        False, description="Move that weight after every step: up where the entropy is below entropy_target, else down"
    )
    entropy_coef_min: _NotNegative = Field(0.0, description="The least weight it moves to")
    entropy_coef_max: _NotNegative = Field(1.0, description="The greatest weight it moves to")
    entropy_coef_delta: Rate = Field(0.005, description="How far it moves in a step")
    entropy_target: _NotNegative = Field(0.2, description="Mean entropy of a token in nats; above it there is no bonus")
    vllm_importance_sampling_correction: bool = Field(
        True,
        description="With rollouts vllm or server: weigh completions by the trainer's probability over the engine's",
    )
    vllm_importance_sampling_mode: Literal["sequence_mask", "sequence_truncate", "token_mask", "token_truncate"] = (
        Field("sequence_mask", description="Ratios of completions or tokens; beyond the bounds left out, or cut")
    )
    vllm_importance_sampling_clip_max: Rate | None = Field(3.0, description="Upper bound of those ratios")
    vllm_importance_sampling_clip_min: _NotNegative | None = Field(None, description="Lower bound of those ratios")

    def trl(self) -> dict[str, Any]:
        """These settings as arguments of `trl.GRPOConfig`."""
        return {name: getattr(self, name) for name in PolicyConfig.model_fields}

    @property
    def needs_order(self) -> bool:
        """Whether the loss depends on which completions stand together in a forward pass."""
        bonus = self.entropy_coef != 0.0 or self.use_adaptive_entropy
        return self.loss_type == "bnpo" or bonus or self.top_entropy_quantile < 1.0

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Raise ValueError where one of these settings is not at its default."""
        for name in names:
            if getattr(self, name) != PolicyConfig.model_fields[name].default:
                raise ValueError(f"{name}: does nothing {why}; leave it out")

    @model_validator(mode="after")
    def _settings_of_the_loss_have_their_loss(self) -> Self:
        loss = self.loss_type
        if loss not in _CLIPPING:
            self._refuse(("delta", "epsilon"), f"with loss_type {loss}")
        if loss in ("sapo", "vespo"):
            self._refuse(("epsilon_high",), f"with loss_type {loss}")
        for other in ("sapo", "vespo"):
            if loss != other:
                names = tuple(name for name in PolicyConfig.model_fields if name.startswith(f"{other}_"))
                self._refuse(names, f"with loss_type {loss}, only with {other}")
        if loss == "cispo" and self.epsilon_high is None:
            raise ValueError(
                "loss_type cispo cuts ratios at epsilon_high, and without one TRL would cut all of them at epsilon, "
                "far below 1; set epsilon_high (5.0 is what its authors recommend)"
            )
        return self

    @model_validator(mode="after")
    def _level_fits_the_loss(self) -> Self:
        loss, level = self.loss_type, self.importance_sampling_level
        if loss == "luspo" and level != "sequence":
            raise ValueError("loss_type luspo is of whole completions; set importance_sampling_level to sequence")
        if level == "sequence" and loss not in ("grpo", "sapo", "luspo"):
            why = "makes its own ratio" if loss == "vespo" else "would weigh each completion by its length"
            raise ValueError(
                f"importance_sampling_level sequence: loss_type {loss} {why}; set loss_type to grpo (GSPO), or the "
                "level to token"
            )
        return self

    @model_validator(mode="after")
    def _parts_have_their_whole(self) -> Self:
        if not self.use_adaptive_entropy:
            self._refuse(_ADAPTIVE, "without use_adaptive_entropy")
        elif not self.entropy_coef_min <= self.entropy_coef <= self.entropy_coef_max:
            raise ValueError("entropy_coef must lie between entropy_coef_min and entropy_coef_max")
        if self.multi_objective_aggregation == "normalize_then_sum":
            self._refuse(("scale_rewards",), "with normalize_then_sum, which normalises each reward by its group")
        return self

    @model_validator(mode="after")
    def _bounds_of_ratios_fit(self) -> Self:
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(f"vllm_importance_sampling_clip_min ({low:g}) must be below clip_max ({high:g})")
        if low is None and high is None and self.vllm_importance_sampling_mode.endswith("truncate"):
            raise ValueError(
                f"vllm_importance_sampling_mode {self.vllm_importance_sampling_mode} cuts at a bound, and there is "
                "none; set vllm_importance_sampling_clip_max or clip_min"
            )
        return self

    def check_sampler(self, rollouts: str) -> None:
        """Raise ValueError for settings that do nothing with what samples the completions."""
        if rollouts == "transformers":
            names = tuple(name for name in PolicyConfig.model_fields if name.startswith("vllm_"))
            self._refuse(names, f"with rollouts {rollouts}, whose probabilities are the trainer's")
            if self.num_iterations == 1:
                self._refuse(
                    ("off_policy_mask_threshold",),
                    "with num_iterations 1 and rollouts transformers, where completions are the policy's own",
                )
        elif self.vllm_importance_sampling_correction:
            if self.loss_type == "vespo" and self.vllm_importance_sampling_mode.startswith("sequence"):
                raise ValueError("loss_type vespo needs a vllm_importance_sampling_mode of tokens, such as token_mask")
        else:
            names = tuple(name for name in PolicyConfig.model_fields if name.startswith("vllm_importance_sampling_"))
            self._refuse(names[1:], "without vllm_importance_sampling_correction")
