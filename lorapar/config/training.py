"""How the two systems are tuned: the sections `sft` and `rl`."""

from itertools import takewhile
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lorapar.config.base import SYSTEMS, Fraction, Positive, Rate, Scheduler, Section, Share, merged, unless_default
from lorapar.config.mistakes import validated
from lorapar.config.policy import PolicyConfig
from lorapar.config.rewards import RewardConfig, Rewards, check_rewards, weight_of
from lorapar.config.rollouts import ENGINES, EngineOptions, RolloutServer
from lorapar.errors import BadInputError

SOFT_OVERLONG = "trl.rewards:get_soft_overlong_punishment"
"""The reward that `rl.soft_overlong_tokens` stands for."""
_OVERLONG_OPTION = "soft_punish_cache"


_OF_EVERY_PHASE = frozenset(
    (
        *("rewards", "soft_overlong_tokens", "rollouts", "vllm", "server", "score_again"),
        *("warmup_system2_examples", "warmup_repeats"),
    )
)
"""Settings that are looked up or tried once for the run, or that are about the two systems."""
S = TypeVar("S", bound=Section)


class PhaseConfig(Section):
    """One phase of training: a system's elements on its own rows, by one method."""

    system: str = Field(description="Whose elements and rows")
    method: Literal["sft", "rl"] = Field(description="How: with the settings of the section `sft` or `rl`")
    settings: dict[str, JsonValue] = Field(
        {},
        description="Settings of that section that are others in this phase, such as {learning_rate: 1.0e-4}; of a "
        "setting with keys of its own only those named",
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "settings")

    def of(self, section: S) -> S:
        """The section `sft` or `rl` as this phase has it; raises ValueError, in one line, where that cannot be."""
        if not self.settings:
            return section
        common = [key for key in self.settings if key in _OF_EVERY_PHASE]
        if common:
            raise ValueError(f"{common[0]}: is one for all phases; set it in the section {self.method}")
        try:
            return validated(type(section), merged(section.model_dump(mode="json"), self.settings), "")
        except BadInputError as error:
            raise ValueError(str(error).removeprefix(": ").removeprefix("settings: ")) from None


Phase = Literal["sft", "rl", "sft+rl"] | PhaseConfig
Phases = tuple[Phase, ...]
DEFAULT_PHASES: Phases = ("sft", "rl")
_ORDERS: tuple[tuple[str, ...], ...] = (("sft", "rl"), ("rl", "sft"), ("sft",), ("rl",), ("sft+rl",))
_OWN_METHOD = {("system1", "sft"): "sft", ("system2", "rl"): "rl"}


def known_order(phases: Phases) -> Phases:
    """The phases, those that name the two systems with their own methods as the methods alone.

    Raises ValueError where no run trains in this order.
    """
    named = [phase for phase in phases if isinstance(phase, PhaseConfig)]
    if not named and phases in _ORDERS:
        return phases
    if not named or len(named) < len(phases):
        known = "; ".join(f"[{', '.join(one)}]" for one in _ORDERS)
        order = ", ".join(phase_text(phase) for phase in phases)
        raise ValueError(
            f"[{order}] is no order that a run trains in; choose one of {known}, or name the system of every phase, as "
            "in {system: system1, method: sft}"
        )
    if any(phase.settings for phase in named):
        return phases
    short: Any = tuple(_OWN_METHOD.get((phase.system, phase.method)) for phase in named)
    return short if short in _ORDERS else phases


def phase_text(phase: Phase) -> str:
    """A phase as people are told: `sft`, `sft of recall`, or `sft of recall with max_steps 20`."""
    if not isinstance(phase, PhaseConfig):
        return phase
    own = ", ".join(f"{key} {value}" for key, value in phase.settings.items())
    return f"{phase.method} of {phase.system}" + (f" with {own}" if own else "")


def methods_of(phase: Phase) -> tuple[str, ...]:
    """How a phase trains: by SFT, RL or both."""
    return (phase.method,) if isinstance(phase, PhaseConfig) else tuple(phase.split("+"))


def trained_in(node: str, phases: Phases) -> Phases:
    """What the node `sft` or `rl` of the graph trains: `sft` only what stands before RL, `rl` all that is left."""
    before = tuple(takewhile(lambda phase: methods_of(phase) == ("sft",), phases))
    return before if node == "sft" else phases[len(before) :]


def systems_trained(phases: Phases) -> tuple[tuple[str, str], ...]:
    """The systems that phases train, each with its method, in their order."""
    own = {"sft": SYSTEMS[0], "rl": SYSTEMS[1]}
    return tuple(
        (phase.system if isinstance(phase, PhaseConfig) else own[method], method)
        for phase in phases
        for method in methods_of(phase)
    )


class SftConfig(Section):
    """Supervised fine-tuning on System 1 (paper section 4.1)."""

    rows: Literal["system1", "all"] = Field("system1", description="Rows trained on; `all` is the authors' script")
    train_on: Literal["last", "all"] = Field(
        "last", description="Turns of the assistant that are learned where rows have several: the last one, or all"
    )
    warmup_system2_examples: Annotated[int, Field(ge=0)] = Field(
        0, description="System 2 rows mixed in so that RL starts with some reward"
    )
    warmup_repeats: Positive = Field(1, description="Times each of those System 2 rows appears in an epoch")
    loss_average: Literal["token", "row"] = Field(
        "token",
        description="The loss is a mean over answer tokens, or over rows: short answers then count like long ones",
    )
    epochs: Rate = Field(1.0, description="Passes over the rows")
    max_steps: Positive | None = Field(None, description="Number of optimiser steps, instead of epochs")
    learning_rate: Rate = Field(2e-4, description="Peak learning rate")
    scheduler: Scheduler = Field("cosine", description="Learning-rate schedule")
    warmup_ratio: Fraction = Field(0.03, description="Share of the steps the learning rate rises over")
    batch_size: Positive = Field(1, description="Rows in one forward pass")
    gradient_accumulation: Positive = Field(32, description="Forward passes to one optimiser step")
    max_length: Positive = Field(512, description="Longest row in tokens; longer rows are cut at the end")
    split_by_length: bool = Field(
        False,
        description="Compute a batch's short rows apart from its long ones where that saves padding: the same rows, "
        "but dropout draws other numbers",
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW decay of the active elements")
    max_grad_norm: Rate = Field(1.0, description="Gradient norm of the active elements is clipped to this")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time")

    @model_validator(mode="after")
    def _warmup_fits_rows(self) -> Self:
        if self.rows == "all" and self.warmup_system2_examples:
            raise ValueError(
                "rows is 'all', so SFT sees every System 2 row already; set warmup_system2_examples to 0 with it"
            )
        return self


class RowFilter(Section):
    """Which rows RL learns from, by how often the adapter it begins with solves them."""

    samples: Annotated[int, Field(ge=2, le=64)] = Field(8, description="Completions asked for of each row")
    low: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Least share of them that solve a row that is kept; one that none solves never is"
    )
    high: Share = Field(1.0, description="Greatest share; a row that all of them solve is never kept")
    reward: str | None = Field(
        None,
        description="Reward of rl.rewards that says whether a completion solves its row; by default exact_answer and "
        "passes_tests, or where there is neither the reward of the greatest weight",
    )
    solved_from: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="What that reward says, before weighing, from which on a row counts as solved"
    )

    @model_validator(mode="after")
    def _something_lies_between(self) -> Self:
        if not any(self.keeps(solved / self.samples) for solved in range(self.samples + 1)):
            raise ValueError(
                f"low ({self.low:g}) to high ({self.high:g}): none of the shares that {self.samples} samples can give "
                "lies between; lower low, raise high or raise samples"
            )
        return self

    def keeps(self, rate: float) -> bool:
        """Whether a row that this share of its completions solve is learned from."""
        return 0.0 < rate < 1.0 and self.low <= rate <= self.high


class RlConfig(PolicyConfig):
    """Reinforcement learning by GRPO on System 2 (paper section 4.2)."""

    rows: Literal["system2", "all"] = Field("system2", description="Rows trained on; `all` is the authors' script")
    epochs: Rate = Field(1.0, description="Passes over the rows")
    max_steps: Positive | None = Field(None, description="Number of optimiser steps, instead of epochs")
    learning_rate: Rate = Field(5e-6, description="Peak learning rate")
    scheduler: Scheduler = Field("cosine", description="Learning-rate schedule")
    warmup_ratio: Fraction = Field(0.1, description="Share of the steps the learning rate rises over")
    batch_size: Positive = Field(8, description="Completions in one forward pass")
    gradient_accumulation: Positive = Field(4, description="Forward passes to one optimiser step")
    num_generations: Annotated[int, Field(ge=2)] = Field(8, description="Completions of each prompt: the group")
    max_prompt_length: Positive = Field(128, description="Longest prompt in tokens; rows above it are left out")
    max_completion_length: Positive = Field(512, description="Longest completion in tokens")
    rollouts: Literal["transformers", "vllm", "server"] = Field(
        "transformers",
        description="What samples the completions; vllm needs an environment (or the image) with vLLM, server a vLLM "
        "of its own elsewhere",
    )
    vllm: EngineOptions | None = Field(None, description="Options of that engine")
    server: RolloutServer | None = Field(None, description="Where that server is; needs rollouts server")
    max_rollout_difference: Rate | None = Field(
        0.1,
        description="Mean difference of vLLM's log-probabilities from the trainer's, in nats a token, above which RL "
        "ends: the completions are then not the adapter's",
    )
    keep_rollouts: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="Completions of each step kept with their rewards, for `lorapar watch` and the report"
    )
    share_prompts: bool = Field(
        True,
        description="Completions of a prompt share its computation, in rollouts and in learning, where the model can",
    )
    temperature: Rate = Field(1.0, description="Sampling temperature of the rollouts")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(1.0, description="Nucleus of the rollouts' sampling")
    kl_beta: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Weight of the KL term towards the reference")
    filter: RowFilter | None = Field(
        None,
        description="Ask the adapter that RL begins with about every row first, and learn only from those it neither "
        "always nor never solves; null learns from all",
    )
    score_again: bool = Field(
        False,
        description="Score and partition again after SFT: RL then trains what matters in the adapter that SFT left",
    )
    reference: Literal["base", "sft"] = Field("sft", description="The reference model of the KL term")
    rewards: Rewards = Field(
        {
            "exact_answer": 2.0,
            "integer_answer": 0.5,
            "strict_format": 0.5,
            "soft_format": 0.5,
            "tag_count": 0.5,
        },
        description="Weight of each reward, or its options with `weight`; keys for your own rewards are import paths, "
        "`package.module:function`, TRL's are `trl.rewards:NAME`, and judges and reward models have any name",
    )
    soft_overlong_tokens: Positive | None = Field(
        None,
        description="Completions that come this near to max_completion_length lose up to 1 of their reward (DAPO): "
        "puts TRL's get_soft_overlong_punishment among the rewards",
    )
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="AdamW beta 1")
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.99, description="AdamW beta 2")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.1, description="AdamW decay of the active elements")
    max_grad_norm: Rate = Field(0.1, description="Gradient norm of the active elements is clipped to this")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time")

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "server")

    @model_validator(mode="before")
    @classmethod
    def _overlong_is_a_reward(cls, data: Any) -> Any:
        tokens = data.get("soft_overlong_tokens") if isinstance(data, dict) else None
        if not tokens:
            return data
        rewards = data.get("rewards", cls.model_fields["rewards"].default)
        return {**data, "rewards": {SOFT_OVERLONG: {"options": {_OVERLONG_OPTION: tokens}}, **rewards}}

    @model_validator(mode="after")
    def _overlong_fits(self) -> Self:
        tokens = self.soft_overlong_tokens
        if tokens is None:
            return self
        if tokens >= self.max_completion_length:
            raise ValueError(
                f"soft_overlong_tokens ({tokens}) must be below max_completion_length ({self.max_completion_length})"
            )
        reward = self.rewards[SOFT_OVERLONG]
        if not isinstance(reward, RewardConfig) or reward.options.get(_OVERLONG_OPTION) != tokens:
            raise ValueError(f"soft_overlong_tokens is {tokens}, and rewards names {SOFT_OVERLONG} too; leave one out")
        return self

    @field_validator("rewards")
    @classmethod
    def _rewards_are_known(cls, rewards: Rewards) -> Rewards:
        return check_rewards(rewards)

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weight of each reward."""
        return {name: weight_of(value) for name, value in self.rewards.items()}

    @property
    def solving_rewards(self) -> tuple[str, ...]:
        """The rewards of which one says, for `filter`, whether a completion solves its row."""
        if self.filter is not None and self.filter.reward is not None:
            return (self.filter.reward,)
        about_answers = tuple(name for name in ("exact_answer", "passes_tests") if name in self.rewards)
        return about_answers or (max(self.rewards, key=lambda name: self.reward_weights[name]),)

    def reward_configs(self) -> dict[str, RewardConfig]:
        """Rewards with more than a weight."""
        return {name: value for name, value in self.rewards.items() if isinstance(value, RewardConfig)}

    @model_validator(mode="after")
    def _filter_has_its_reward(self) -> Self:
        named = self.filter.reward if self.filter is not None else None
        if named is not None and named not in self.rewards:
            known = ", ".join(self.rewards)
            raise ValueError(f"filter: reward names '{named}', which is none of rl.rewards ({known})")
        return self

    @model_validator(mode="after")
    def _options_have_their_engine(self) -> Self:
        for name in ENGINES:
            if getattr(self, name) is not None and self.rollouts != name:
                raise ValueError(
                    f"{name}: does nothing where rollouts is {self.rollouts}; leave it out or set rollouts to {name}"
                )
        if self.rollouts == "server" and self.server is None:
            raise ValueError("rollouts is server, so server has to say where it is: server.endpoint")
        self.check_sampler(self.rollouts)
        if self.rollouts in ENGINES:
            if not self.vllm_importance_sampling_correction and self.max_rollout_difference is not None:
                raise ValueError(
                    "max_rollout_difference: without vllm_importance_sampling_correction the trainer's probabilities "
                    "are not computed, so nothing can be compared; set it to null, or leave the correction on"
                )
        elif self.max_rollout_difference not in (None, RlConfig.model_fields["max_rollout_difference"].default):
            raise ValueError("max_rollout_difference: does nothing where rollouts is transformers; leave it out")
        return self

    @model_validator(mode="after")
    def _groups_fill_batches(self) -> Self:
        if (self.batch_size * self.gradient_accumulation) % self.num_generations:
            raise ValueError(
                f"batch_size * gradient_accumulation ({self.batch_size} * {self.gradient_accumulation}) must be a "
                f"multiple of num_generations ({self.num_generations}), or a group would be torn apart"
            )
        return self
