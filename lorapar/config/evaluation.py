"""How adapters are compared: the section `evaluate`, with its benchmarks."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from lorapar.config.base import SYSTEMS, Positive, Section
from lorapar.config.rewards import OWN_NAME, JudgeConfig, RewardConfig, RewardModelConfig
from lorapar.config.voting import VllmOptions

BUILT_IN = ("gsm8k", "mmlu", "humaneval")
"""Benchmarks with task files, rows and rules of lorapar's own; every other name is a task of lm-eval."""
MMLU_SHOTS = 5
"""Worked examples of each subject in the split `dev` of cais/mmlu."""
_LONGEST = 512

Task = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class BenchmarkConfig(Section):
    """One benchmark, asked through lm-eval: one of the three built in, or any task by its name."""

    task: Task = Field(
        description="gsm8k, mmlu, humaneval, or the name of any task, group or tag of lm-eval or of `task_folder`"
    )
    few_shot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Worked examples before each question; absent: as the task has it, of those built in none"
    )
    limit: Positive | None = Field(None, description="Rows that are asked, drawn by the seed; absent: all")
    max_new_tokens: Positive | None = Field(
        None, description="Longest answer in tokens; absent: as the task has it, of those built in 512"
    )
    chat: bool | None = Field(
        None,
        description="Ask through the chat template, gsm8k with the system message of System 2; absent: gsm8k only",
    )
    system: str | None = Field(None, description="Whose system message opens a chat of a task by name; absent: none")
    data: str | None = Field(
        None,
        description="Rows of a benchmark built in: a .jsonl, .jsonl.gz, .csv or .parquet file or its s3:// address; "
        "absent: from the hub",
    )
    few_shot_data: str | None = Field(
        None, description="Where worked examples come from; absent: the hub's own, or rows of `data` then left out"
    )
    task_folder: str | None = Field(
        None, description="Folder with task files (YAML) in lm-eval's format; absent: those that come with lm-eval"
    )
    trust_code: bool = Field(
        False, description="Run Python code that task files of `task_folder` name (off: refuse it)"
    )
    metric: str | None = Field(
        None,
        description="Which metric says whether a row is right, such as `acc_norm` or, with its filter, "
        "`exact_match,flexible-extract`; absent: the task's first that does",
    )
    overrides: dict[str, JsonValue] = Field(
        default_factory=dict, description="Fields of the task file that are set otherwise, such as generation_kwargs"
    )
    digest: str | None = Field(None, description="sha256 of the rows; filled in by `plan`")

    @property
    def built_in(self) -> bool:
        """Whether rows and rules are lorapar's own."""
        return self.task in BUILT_IN and self.task_folder is None

    @property
    def worked_examples(self) -> int:
        """Worked examples of a benchmark built in."""
        return self.few_shot or 0

    @property
    def longest_answer(self) -> int:
        """Longest answer of a benchmark built in, in tokens."""
        return self.max_new_tokens or _LONGEST

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task in ("system1", "system2"):
            raise ValueError(f"task: '{self.task}' is what held-out rows are counted under; give the task another name")
        if self.few_shot_data is not None and self.data is None:
            raise ValueError("few_shot_data: does nothing where the rows come from the hub; give data too")
        if self.built_in:
            self._fits_built_in()
        else:
            self._fits_by_name()
        return self

    def _fits_built_in(self) -> None:
        for key in ("trust_code", "metric", "overrides", "system"):
            if getattr(self, key):
                raise ValueError(f"{key}: does nothing for {self.task}, which is built in; leave it out")
        if self.task == "humaneval" and self.few_shot:
            raise ValueError("few_shot: humaneval has no worked examples; leave it out")
        if self.task == "mmlu" and self.data is None and self.worked_examples > MMLU_SHOTS:
            raise ValueError(
                f"few_shot: the hub has {MMLU_SHOTS} worked examples of each subject of mmlu, fewer than "
                f"{self.few_shot}; lower it, or name rows in data and few_shot_data"
            )

    def _fits_by_name(self) -> None:
        if self.data is not None:
            raise ValueError(
                f"data: only {', '.join(BUILT_IN)} take rows here; {self.task} reads those that its task file names "
                "(dataset_path, data_files)"
            )
        if self.trust_code and self.task_folder is None:
            raise ValueError("trust_code: does nothing without task_folder; leave it out")
        if self.system is not None and not self.chat:
            raise ValueError("system: does nothing where the task is not asked by chat; set chat: true or leave it out")


class MeasureConfig(Section):
    """A judge or a reward model that reads every model's held-out answers; a measure under its name."""

    judge: JudgeConfig | None = Field(None, description="A judge behind an OpenAI-compatible API, a teacher say")
    reward_model: RewardModelConfig | None = Field(None, description="A model that scores answers")
    systems: tuple[str, ...] = Field(SYSTEMS, description="Whose held-out rows it reads; by default every system's")
    right_from: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None,
        description="The least value that counts as a right answer; absent: 0.5 of a judge; a reward model's values "
        "have no bounds, so there it must be given",
    )

    @property
    def threshold(self) -> float:
        """The least value that counts as right."""
        return 0.5 if self.right_from is None else self.right_from

    @property
    def as_reward(self) -> RewardConfig:
        """The same as it is in `rl.rewards`."""
        return RewardConfig(judge=self.judge, reward_model=self.reward_model)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.judge is None) == (self.reward_model is None):
            raise ValueError("give a judge or a reward_model, one of the two")
        if self.reward_model is not None and self.right_from is None:
            raise ValueError("right_from: a reward model's values have no bounds; say from which on an answer is right")
        if not self.systems or len(set(self.systems)) != len(self.systems):
            raise ValueError("systems: name system1, system2 or both, or systems of yours, each once")
        return self


class EvaluateConfig(Section):
    """Held-out scores of base, after SFT, after RL and of the adapter in production."""

    limit: Positive | None = Field(None, description="Rows of each system that are evaluated; absent: all held-out")
    batch_size: Positive = Field(32, description="Rows generated for at once")
    max_new_tokens: Positive = Field(512, description="Longest answer in tokens")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="Level of the intervals")
    backend: Literal["transformers", "vllm"] = Field(
        "transformers", description="What runs the models; vllm needs an environment (or the image) with vLLM"
    )
    vllm: VllmOptions | None = Field(None, description="Options of the engine, where backend is vllm")
    benchmarks: tuple[BenchmarkConfig, ...] = Field((), description="Benchmarks that every model is asked too")
    judges: dict[str, MeasureConfig] = Field(
        {}, description="Judges and reward models, each under the name it has in reports and gates"
    )

    @model_validator(mode="after")
    def _options_are_of_the_backend(self) -> Self:
        if self.vllm is not None and self.backend != "vllm":
            raise ValueError("vllm: does nothing where backend is transformers; leave it out or set backend to vllm")
        return self

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        tasks = [benchmark.task for benchmark in self.benchmarks]
        twice = sorted({task for task in tasks if tasks.count(task) > 1})
        if twice:
            raise ValueError(f"benchmarks: {twice[0]} is named twice; name each once")
        for name in self.judges:
            if not OWN_NAME.fullmatch(name):
                raise ValueError(f"judges: '{name}' is no name; use letters, digits, '.', '_' and '-'")
            if name in (*SYSTEMS, *tasks, *BUILT_IN):
                raise ValueError(f"judges: {name} is the name of another measure; give the judge a different one")
        return self
