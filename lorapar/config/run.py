"""All settings of one run. Defaults follow the paper (Huang et al. 2025, section 4); see docs/method.md.

Each field carries a one-line description with its unit; `docs/configuration.md` is generated from them.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lorapar.config.adapter import PARTITIONED_KINDS, AdapterConfig, Choice, PartitionConfig, ScoreConfig
from lorapar.config.base import Comparison, Name, Positive, Section, unless_default
from lorapar.config.checkpoint import CheckpointConfig
from lorapar.config.data import DataConfig
from lorapar.config.evaluation import EvaluateConfig
from lorapar.config.execution import ExecuteConfig
from lorapar.config.model import ModelConfig, PromptConfig
from lorapar.config.registry import GateConfig, PublishConfig, RegistryConfig
from lorapar.config.report import ReportConfig
from lorapar.config.rollouts import ENGINES
from lorapar.config.store import StoreConfig
from lorapar.config.systems import DEFAULT_SYSTEMS, Systems, check_named, filled_in
from lorapar.config.training import (
    DEFAULT_PHASES,
    PhaseConfig,
    Phases,
    RlConfig,
    SftConfig,
    known_order,
    methods_of,
    systems_trained,
    trained_in,
)
from lorapar.config.voting import EditsConfig, TeacherConfig, VotingConfig
from lorapar.errors import nearest

_UNDIVIDED = "is trained as a whole, without the element partition; leave it out"
_NO_CHECKPOINTING = "cannot recompute its cache; set it to false"
_NO_SPLITTING = "reads its cache for all rows at once; set it to false"
_NOT_PLAIN = "is not the plain LoRA that vLLM takes; set it to transformers"


def _methods(phases: Phases, system: str) -> set[str]:
    return {method for own, method in systems_trained(phases) if own == system}


def _unfit_for_whole(config: "RunConfig") -> Iterator[tuple[str, Any, tuple[Any, ...], str]]:
    """Settings that a kind without the element partition does not take: key, value, allowed values, and why."""
    partition = config.partition
    yield "partition.theta", partition.theta, (PartitionConfig.model_fields["theta"].default, 1.0), _UNDIVIDED
    for name in ("alpha", "beta", "budget_elements", "budget_bytes", "choose", "mask"):
        yield (
            f"partition.{name}",
            getattr(partition, name),
            (PartitionConfig.model_fields[name].default,),
            _UNDIVIDED,
        )
    yield "score.also", config.score.also, ((),), _UNDIVIDED
    yield "rl.score_again", config.rl.score_again, (False,), _UNDIVIDED
    yield "model.adapter", config.model.adapter, (None,), "goes on from no other adapter; leave it out"
    yield "sharding", config.sharding, ("none",), "is not sharded; set sharding to none"
    yield "rl.rollouts", config.rl.rollouts, ("transformers",), _NOT_PLAIN
    if config.adapter.kind == "prefix":
        for one in config.sft_sections():
            yield "sft.gradient_checkpointing", one.gradient_checkpointing, (False,), _NO_CHECKPOINTING
            yield "sft.split_by_length", one.split_by_length, (False,), _NO_SPLITTING
        for two in config.rl_sections():
            yield "rl.gradient_checkpointing", two.gradient_checkpointing, (False,), _NO_CHECKPOINTING


_BENCHMARKS_ARE_MEASURES = " (the systems, every task of evaluate.benchmarks and every name of evaluate.judges)"


class RunConfig(Section):
    """Every setting of one run; a stage sees only the sections it names."""

    name: Name = Field("adapter", description="Name of the adapter this run makes")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of everything random")
    answers: Comparison = Field(
        "exact",
        description="How rewards, accuracy and gsm8k compare answers: exact numbers, letters, words; math: also LaTeX "
        "and expressions; text: normalised text alone",
    )
    if_changed: bool = Field(
        False, description="Let a run of the pipeline end after `plan` where an equal one has succeeded already"
    )
    processes: Positive | None = Field(
        None,
        description="Most processes of score, SFT, RL and evaluate on one machine; null: one for each visible GPU",
    )
    sharding: Literal["none", "fsdp2"] = Field(
        "none",
        description="How several processes of SFT and RL hold the base: none: each all of it; fsdp2: each a part",
    )
    systems: Systems = Field(
        DEFAULT_SYSTEMS,
        description="The systems: the paper's two, or 2 to 9 of your own, which `phases` then name",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="The base model")
    data: DataConfig = Field(default_factory=DataConfig, description="The examples")
    prompts: PromptConfig = Field(default_factory=PromptConfig, description="System messages")
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = Field(
        (TeacherConfig(name="self"),), description="The voters"
    )
    voting: VotingConfig = Field(default_factory=VotingConfig, description="How votes become labels")
    edits: EditsConfig = Field(default_factory=EditsConfig, description="Labels set by a person")
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="The LoRA adapter")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="Importance scoring")
    partition: PartitionConfig = Field(default_factory=PartitionConfig, description="Element partition")
    phases: Annotated[Phases, AfterValidator(known_order)] = Field(
        DEFAULT_PHASES,
        description="Order of training: [sft, rl], [rl, sft], [sft], [rl], or [sft+rl]: both begin at the start and "
        "their changes are added; or one after another, each with its system, as in {system: system1, method: sft}; "
        "`settings` of a phase stand in for those of its section",
    )
    sft: SftConfig = Field(default_factory=SftConfig, description="System 1 tuning")
    rl: RlConfig = Field(default_factory=RlConfig, description="System 2 tuning")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="Held-out scores")
    execute: ExecuteConfig = Field(default_factory=ExecuteConfig, description="The sandbox for generated code")
    store: StoreConfig = Field(default_factory=StoreConfig, description="Storage that runs share")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="Unfinished work that is kept")
    registry: RegistryConfig = Field(default_factory=RegistryConfig, description="Where adapters are published")
    publish: PublishConfig = Field(default_factory=PublishConfig, description="Which adapter is published")
    gate: GateConfig = Field(default_factory=GateConfig, description="What a better adapter must show")
    report: ReportConfig = Field(default_factory=ReportConfig, description="The report")

    @property
    def methods(self) -> frozenset[str]:
        """`sft`, `rl` or both: how this run trains."""
        return frozenset(method for phase in self.phases for method in methods_of(phase))

    @property
    def held_rank(self) -> int:
        """LoRA rank of the adapter that a run makes, as PEFT and vLLM see it; the plan knows it of any start."""
        earlier = (self.model.adapter_source.rank or 0) if self.model.adapter_source else 0
        single = self.adapter.init == "paper" or self.adapter.kind == "dora"
        new = (1 if single else 2) * self.adapter.rank
        return earlier if self.model.continue_ else earlier + new

    @property
    def system_names(self) -> tuple[str, ...]:
        """Names of the systems, in the order of the settings."""
        return tuple(system.name for system in self.systems)

    @property
    def shared_fractions(self) -> dict[str, float] | None:
        """By named system, the share of its shared elements that it trains; None where partition says it of the two."""
        return None if self.systems == DEFAULT_SYSTEMS else {system.name: system.shared for system in self.systems}

    @property
    def choices(self) -> dict[str, Choice] | None:
        """By system, how its elements are chosen; None where that is the same for all."""
        if isinstance(self.partition.choose, str):
            return None
        trained = {system: self.partition.choices[method] for system, method in systems_trained(self.phases)}
        return {system: trained.get(system, "importance") for system in self.system_names}

    @property
    def sft_systems(self) -> tuple[str, ...]:
        """The systems whose elements the node `sft` trains: its inputs hold nothing of the others."""
        return tuple(dict.fromkeys(system for system, _ in systems_trained(trained_in("sft", self.phases))))

    @property
    def rewarded_without_answer(self) -> Literal["none", "tests", "all", "no_rl"]:
        """Rows without a short answer that RL rewards: all by a judge or reward model, those with tests by these."""
        if "rl" not in self.methods:
            return "no_rl"
        if any(one.brings_its_own for one in self.rl.reward_configs().values()):
            return "all"
        return "tests" if "passes_tests" in self.rl.rewards else "none"

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "systems", "publish")

    @model_validator(mode="after")
    def _systems_reach_every_section(self) -> Self:
        """What the other sections leave open is filled in from the systems, and what they name must be one of them."""
        if self.systems != DEFAULT_SYSTEMS:
            for section, value in filled_in(self).items():
                object.__setattr__(self, section, value)
        check_named(self)
        return self

    def trained_by(self, node: Literal["sft", "rl"]) -> tuple[tuple[str, SftConfig | RlConfig], ...]:
        """What the node `sft` or `rl` of the graph trains: each phase in words, and its section as it has it."""
        sections: dict[str, SftConfig | RlConfig] = {"sft": self.sft, "rl": self.rl}
        found: list[tuple[str, SftConfig | RlConfig]] = []
        for phase in trained_in(node, self.phases):
            if isinstance(phase, PhaseConfig):
                found.append((f"{phase.method} of {phase.system}", phase.of(sections[phase.method])))
            else:
                found += [(method, sections[method]) for method in methods_of(phase)]
        return tuple(found)

    def rl_phases(self) -> tuple[tuple[str, RlConfig], ...]:
        """Every phase of RL in words, with the section `rl` as it has it."""
        return tuple((phase, one) for phase, one in self.trained_by("rl") if isinstance(one, RlConfig))

    def sft_sections(self) -> tuple[SftConfig, ...]:
        """The section `sft` as each phase has it; the section itself where no phase is SFT."""
        phases = (*self.trained_by("sft"), *self.trained_by("rl"))
        return tuple(one for _, one in phases if isinstance(one, SftConfig)) or (self.sft,)

    def rl_sections(self) -> tuple[RlConfig, ...]:
        """The section `rl` as each phase has it; the section itself where no phase is RL."""
        return tuple(one for _, one in self.rl_phases()) or (self.rl,)

    @model_validator(mode="after")
    def _phases_have_settings_of_their_section(self) -> Self:
        for place, phase in enumerate(self.phases):
            try:
                if isinstance(phase, PhaseConfig):
                    _ = phase.of(self.sft) if phase.method == "sft" else phase.of(self.rl)
            except ValueError as error:
                raise ValueError(f"phases[{place}].settings: {error}") from None
        return self

    @model_validator(mode="after")
    def _scored_again_after_sft(self) -> Self:
        if self.rl.score_again and self.phases != DEFAULT_PHASES:
            raise ValueError(
                "rl.score_again scores between SFT and RL, so phases must be [sft, rl]; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _best_can_be_told(self) -> Self:
        if self.publish.pick == "last":
            return self
        if not self.data.development:
            raise ValueError(
                "publish.pick is best, and no rows are set apart to judge by; set data.development (200: so many rows)"
            )
        if self.phases == ("sft+rl",):
            raise ValueError(
                "publish.pick is best, and phases is [sft+rl], which adds the changes of two runs of training, so the "
                "published adapter is of no one step; set pick to last, or phases to another order"
            )
        return self

    @model_validator(mode="after")
    def _choice_is_scored(self) -> Self:
        choices = self.partition.choices
        for method in self.partition.choose if isinstance(self.partition.choose, dict) else ():
            if method not in self.methods:
                raise ValueError(f"partition.choose: names {method}, and no phase trains by it; leave {method} out")
        for choice in choices.values():
            if choice in ("gradient", "magnitude") and choice not in self.score.also:
                raise ValueError(
                    f"partition.choose is {choice}, which scoring keeps only where score.also names it; add it"
                )
        twice = [system for system in self.system_names if len(_methods(self.phases, system)) > 1]
        if twice and choices["sft"] != choices["rl"]:
            raise ValueError(
                f"partition.choose: both SFT and RL train {twice[0]}, so its elements can be chosen in one way only; "
                "give one word for both"
            )
        return self

    @model_validator(mode="after")
    def _kind_of_adapter_fits(self) -> Self:
        """Settings that mean nothing, or that nothing can do, where an adapter is no LoRA in plain words."""
        kind = self.adapter.kind
        if kind in PARTITIONED_KINDS:
            return self
        for key, value, allowed, why in _unfit_for_whole(self):
            if value not in allowed:
                raise ValueError(f"{key} is {value}, and adapter.kind {kind} {why}")
        return self

    @model_validator(mode="after")
    def _measures_are_evaluated(self) -> Self:
        """Otherwise the gate finds out when everything is trained and published."""
        known = [*self.system_names, *(benchmark.task for benchmark in self.evaluate.benchmarks), *self.evaluate.judges]
        for key, names in (("gate.measures", self.gate.measures), ("gate.max_loss_of", tuple(self.gate.max_loss_of))):
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{key}: '{name}' is not evaluated{nearest(name, known)}; measures are {', '.join(known)}"
                        + _BENCHMARKS_ARE_MEASURES
                    )
        return self

    @model_validator(mode="after")
    def _sharded_where_it_can_be(self) -> Self:
        """What would hold a whole base all the same, or cannot be divided."""
        if self.sharding == "none":
            return self
        if self.model.quantization != "none":
            raise ValueError(
                f"sharding is fsdp2, and a base in 8 or 4 bits is not sharded (model.quantization is "
                f"{self.model.quantization}); set one of the two to none"
            )
        if self.rl.rollouts == "vllm":
            raise ValueError(
                "sharding is fsdp2, and rl.rollouts is vllm, whose engine holds the whole base in one process; set "
                "rl.rollouts to transformers or server"
            )
        return self

    @model_validator(mode="after")
    def _one_process_with_an_engine_over_gpus(self) -> Self:
        engine = self.rl.vllm if self.rl.rollouts == "vllm" else None
        if engine is not None and engine.tensor_parallel_size > 1 and self.processes != 1:
            raise ValueError(
                f"rl.vllm.tensor_parallel_size is {engine.tensor_parallel_size}, and each process of RL starts an "
                "engine of its own on its own GPU; set processes to 1, leave it out, or set rl.rollouts to server"
            )
        return self

    @model_validator(mode="after")
    def _quantised_where_it_can_be(self) -> Self:
        """vLLM loads the full base, whose rollouts and answers are not those of the model that is trained."""
        if self.model.quantization == "none":
            return self
        for key, value in (("rl.rollouts", self.rl.rollouts), ("evaluate.backend", self.evaluate.backend)):
            if value in ENGINES:
                raise ValueError(
                    f"{key} is {value}, which loads the full base and not the {self.model.quantization} one that is "
                    f"trained (model.quantization); set {key} to transformers"
                )
        return self

    @model_validator(mode="after")
    def _data_name_labels(self) -> Self:
        if self.voting.labels == "data" and not self.data.may_name_systems:
            raise ValueError(
                "voting.labels is data, and the data name no systems; name their column in data.columns.system, or set "
                "voting.labels to votes"
            )
        return self

    @model_validator(mode="after")
    def _teachers_fit(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teachers: the name '{twice[0]}' is used twice; names of teachers must differ")
        if self.voting.quorum is not None and self.voting.quorum > len(names):
            raise ValueError(f"voting.quorum is {self.voting.quorum}, but there are only {len(names)} teachers")
        if self.voting.min_teachers is not None and self.voting.min_teachers > len(names):
            raise ValueError(
                f"voting.min_teachers is {self.voting.min_teachers}, but there are only {len(names)} teachers"
            )
        return self
