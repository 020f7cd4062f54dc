"""The LoRA adapter, what each element is worth, and who may train it: `adapter`, `score`, `partition`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lorapar.config.base import Fraction, Positive, Rate, Section, unless_default
from lorapar.errors import BadInputError, nearest

ROLES = "QKVOGUD"
"""Query, key, value and output of attention; gate, up and down of the MLP."""
BYTES_AN_ELEMENT = 10
"""What the optimiser keeps of an element that it trains: two float32 moments, and two bytes of index."""
PAPER_LAYOUTS = ("QKVGUD", "QKV", "GUD")


def _layout(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, tuple):
        if not value or not all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in value):
            raise ValueError("a list holds module names such as q_proj or mlp.c_proj, at least one")
        return tuple(dict.fromkeys(value))
    if re.fullmatch(r"[A-Z]+", value):
        if set(value) - set(ROLES) or len(set(value)) < len(value):
            raise ValueError(
                f"'{value}'{nearest(value, list(PAPER_LAYOUTS))}: choose each at most once of the letters {ROLES}, "
                "as in QKVGUD; or all-linear; or a list of module names"
            )
        return "".join(letter for letter in ROLES if letter in value)
    if re.fullmatch(r"[A-Za-z_]\w*", value):
        return (value,)  # one module's name
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"'{value}' is not a regular expression: {error}") from None
    return value


Layout = Annotated[str | tuple[str, ...], AfterValidator(_layout)]


Kind = Literal["lora", "rslora", "dora", "prompt", "prefix", "ia3"]
PARTITIONED_KINDS: tuple[Kind, ...] = ("lora", "rslora")
"""Kinds whose elements are scored and assigned to systems; of the others SFT and RL train every parameter."""
_PEFT_TYPES = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
_READ_BY = {
    "rank": ("lora", "rslora", "dora"),
    "alpha": ("lora", "rslora", "dora"),
    "dropout": ("lora", "rslora", "dora"),
    "layout": ("lora", "rslora", "dora"),
    "init": PARTITIONED_KINDS,
    "virtual_tokens": ("prompt", "prefix"),
}
"""The kinds that a setting of the section does something for."""


def kind_of_peft(values: Mapping[str, Any]) -> str:
    """The kind of adapter that the values of an adapter_config.json are of, rslora as lora; else `other`."""
    return "dora" if values.get("use_dora") else _PEFT_TYPES.get(str(values.get("peft_type", "LORA")), "other")


def not_served(kind: str) -> str | None:
    """Why vLLM serves no adapter of a kind, as the end of a sentence about it; None where it does."""
    return None if kind == "lora" else f"is of the kind {kind}, and vLLM serves plain LoRA only"


class AdapterConfig(Section):
    """The LoRA adapter; defaults follow the paper, but for the start."""

    kind: Kind = Field(
        "lora",
        description="LoRA; rslora: scaled by alpha / sqrt(rank); or a baseline without the element partition, all of "
        "which is trained: dora, prompt (tuning), prefix (tuning), ia3",
    )
    rank: Positive = Field(8, description="Rank r of the trainable LoRA factors")
    alpha: Rate = Field(64.0, description="lora_alpha; the update is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.05, description="LoRA dropout while training")
    layout: Layout = Field(
        "QKVGUD",
        description="What carries LoRA: roles (letters of QKVOGUD), `all-linear`, module names, or a regular "
        "expression for whole module paths",
    )
    init: Literal["residual", "paper", "pissa", "olora"] = Field("residual", description="How A and B start")
    virtual_tokens: Positive = Field(20, description="Tokens that kind prompt or prefix puts before every text")

    @property
    def is_partitioned(self) -> bool:
        """Whether its elements are scored and assigned to the systems."""
        return self.kind in PARTITIONED_KINDS

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "kind", "virtual_tokens")

    @model_validator(mode="after")
    def _settings_are_of_the_kind(self) -> Self:
        for name, kinds in _READ_BY.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: does nothing where kind is {self.kind} (only {', '.join(kinds)}); leave it out"
                )
        return self


Measure = Literal["gradient", "magnitude"]
"""What an element may be ranked by beside importance: its mean gradient, or its value; both without their sign."""


class ScoreConfig(Section):
    """Importance of every element (paper section 3.2)."""

    examples: Positive = Field(100, description="Rows of each system that are scored")
    batch_size: Positive = Field(1, description="Rows in one forward pass; the scores do not depend on it")
    max_length: Positive = Field(512, description="Longest row in tokens; longer rows are cut at the end")
    also: tuple[Measure, ...] = Field(
        (), description="Kept beside importance, for partition.choose: gradient, magnitude"
    )


Choice = Literal["importance", "random", "gradient", "magnitude"]


class PartitionConfig(Section):
    """Which elements each system may train (paper section 3.3)."""

    theta: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.9, description="Share of the total importance kept")
    alpha: Fraction = Field(1.0, description="Share of the shared elements that SFT on System 1 may train")
    beta: Fraction = Field(1.0, description="Share of the shared elements that RL on System 2 may train")
    budget_elements: Positive | None = Field(
        None, description="Elements in each system's set, the most important ones; theta then decides nothing"
    )
    budget_bytes: Annotated[int, Field(ge=BYTES_AN_ELEMENT)] | None = Field(
        None, description="The same by the bytes that the optimiser keeps of them in each stage: 10 an element"
    )
    choose: Choice | dict[Literal["sft", "rl"], Choice] = Field(
        "importance",
        description="By importance; or as a control as many elements in each region drawn at random with `seed`, or as "
        "many in each set by gradient or magnitude (with score.also); for each method as {sft: importance, rl: random}",
    )
    mask: Literal["both", "sft", "rl", "none"] = Field(
        "both", description="Which stage trains its own elements only; one that is not masked trains all of the adapter"
    )

    @model_validator(mode="after")
    def _says_something_once(self) -> Self:
        if self.budget_elements is not None and self.budget_bytes is not None:
            raise ValueError("budget_elements and budget_bytes: give one of the two")
        if self.choose == {}:
            raise ValueError("choose: {} names no method; leave it out, or write {sft: importance, rl: random}")
        return self

    @property
    def choices(self) -> dict[str, Choice]:
        """How elements are chosen, by method; by importance of one that is not named."""
        named: dict[str, Choice] = {"sft": "importance", "rl": "importance"}
        return named | (dict(self.choose) if isinstance(self.choose, dict) else dict.fromkeys(named, self.choose))

    @property
    def budget(self) -> int | None:
        """Most elements in a system's set; None where theta decides."""
        return self.budget_elements if self.budget_bytes is None else self.budget_bytes // BYTES_AN_ELEMENT


VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for --max-lora-rank (vLLM 0.31 to 0.33)."""


def max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that serves an adapter of this rank; None where none is large enough."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)


def lora_slot(rank: int, setting: str) -> int:
    """As `max_lora_rank`; raises BadInputError for a rank that no vLLM takes, which `setting` asks it to."""
    slot = max_lora_rank(rank)
    if slot is None:
        raise BadInputError(
            f"{setting}: the adapter has rank {rank} in PEFT's files, and vLLM takes none above {VLLM_RANKS[-1]}; set "
            f"{setting} to transformers, or lower adapter.rank"
        )
    return slot
