"""What the values of `rl.rewards` may be beside a weight: options of a reward, a reward model, a judge."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lorapar.config.base import Fraction, Positive, Section
from lorapar.config.voting import Address, EndpointOptions, TeacherConfig, TeacherTemplate
from lorapar.errors import nearest

REWARD_NAMES = ("exact_answer", "integer_answer", "strict_format", "soft_format", "tag_count", "passes_tests")
TRL_REWARDS = "trl.rewards:"
"""How the key of a reward of TRL begins."""
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RewardModelConfig(Section):
    """A sequence-classification model with one output, which is the reward."""

    name: str = Field(description="Hub name or local folder of the reward model; its own code is never run")
    revision: str | None = Field(None, description="Hub revision of the reward model")
    digest: str | None = Field(None, description="sha256 identity of its weights; filled in by `plan`")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Number format of its weights; absent: model.dtype"
    )
    batch_size: Positive = Field(16, description="Completions it reads at once")
    max_length: Positive = Field(2048, description="Longest question with completion in tokens; more is cut at the end")


class JudgeConfig(Section):
    """A judge behind an OpenAI-compatible API: it answers one of two words about each completion."""

    endpoint: Address = Field(description="Address of the API, such as http://judge:8000/v1")
    model: str = Field(description="The name its endpoint serves")
    revision: str | None = Field(None, description="Any text that changes when its weights do: judgements are then new")
    openai: EndpointOptions | None = Field(None, description="How its endpoint is asked")
    instruction: str = Field(
        "You judge answers to questions. Say {good} if the answer is right, complete and helpful, and {bad} if not.",
        description="Opening words; {good} and {bad} are the words it may answer",
    )
    row: str = Field(
        "Question: {question}\n\nAnswer to judge: {answer}\n\nVerdict:",
        description="How a question and a completion, {answer}, are shown; the word follows",
    )
    good: str = Field("good", description="The word that earns 1; where its probability is known, that is the reward")
    bad: str = Field("bad", description="The word that earns 0")
    show_answer: bool = Field(True, description="Show it the row's own answer, as a right one, behind the question")
    min_confidence: Fraction = Field(
        0.0, description="Where probabilities are known, a word less probable than this counts as no verdict"
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        for word in ("{good}", "{bad}"):
            if word not in self.instruction:
                raise ValueError(f"instruction must hold {word}, or the judge would not know what to answer")
        if "{answer}" not in self.row:
            raise ValueError("row must hold {answer}, or every completion would look the same to the judge")
        if len({self.good.strip(), self.bad.strip(), ""}) < 3:
            raise ValueError("good and bad need two different, non-empty words")
        self.teacher("judge")
        return self

    def teacher(self, name: str) -> TeacherConfig:
        """The judge as a teacher: `system2` stands for the good word."""
        words = {"{good}": "{system2}", "{bad}": "{system1}"}
        opening = re.sub(r"\{good\}|\{bad\}", lambda found: words[found[0]], self.instruction)
        return TeacherConfig(
            name=name,
            backend="openai",
            endpoint=self.endpoint,
            model=self.model,
            revision=self.revision,
            openai=self.openai,
            template=TeacherTemplate(
                instruction=opening,
                neutral_instruction=opening,
                row=self.row,
                label_words={"system1": self.bad, "system2": self.good},
            ),
        )


class RewardConfig(Section):
    """A reward with more than a weight."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(1.0, description="What its values are multiplied by")
    options: dict[str, Any] = Field({}, description="Further arguments of a reward of TRL (`trl.rewards:NAME`)")
    reward_model: RewardModelConfig | None = Field(None, description="A model that gives the reward")
    judge: JudgeConfig | None = Field(None, description="A judge that gives the reward")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.reward_model is not None and self.judge is not None:
            raise ValueError("reward_model and judge exclude each other; make two rewards of them")
        return self

    @property
    def brings_its_own(self) -> bool:
        """Whether it needs no short answer: a reward model or a judge."""
        return self.reward_model is not None or self.judge is not None


Rewards = dict[str, float | RewardConfig]


def check_rewards(rewards: Rewards) -> Rewards:
    """Raise ValueError for a key that names no reward, and for options that do nothing."""
    for key, value in rewards.items():
        options = value if isinstance(value, RewardConfig) else RewardConfig(weight=value)
        if options.brings_its_own:
            if key in REWARD_NAMES or not OWN_NAME.fullmatch(key):
                raise ValueError(
                    f"'{key}' cannot be the name of a judge or reward model; use letters, digits, '.', '_' and '-', "
                    f"and none of {', '.join(REWARD_NAMES)}"
                )
            if options.options:
                raise ValueError(f"{key}: options does nothing beside a judge or reward model; leave it out")
        elif key not in REWARD_NAMES and not _IMPORT_PATH.fullmatch(key):
            raise ValueError(
                f"'{key}' is no reward{nearest(key, list(REWARD_NAMES))}; one of {', '.join(REWARD_NAMES)}, a "
                f"reward of TRL like {TRL_REWARDS}think_format_reward, an import path like package.module:function, or "
                "any name with reward_model or judge below it"
            )
        elif options.options and not key.startswith(TRL_REWARDS):
            raise ValueError(f"{key}: options are for rewards of TRL ({TRL_REWARDS}NAME); leave them out")
    if not any(weight_of(value) for value in rewards.values()):
        raise ValueError("every weight is 0, so RL would learn nothing; give at least one reward a weight")
    return rewards


def weight_of(value: float | RewardConfig) -> float:
    """The weight in a value of `rl.rewards`."""
    return value.weight if isinstance(value, RewardConfig) else float(value)
