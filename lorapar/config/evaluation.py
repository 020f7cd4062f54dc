"""How adapters are compared: the section `evaluate`, with its benchmarks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lorapar.config.base import Positive, Section
from lorapar.config.voting import VllmOptions

BenchmarkTask = Literal["gsm8k", "mmlu", "humaneval"]

MMLU_SHOTS = 5
"""Worked examples of each subject in the split `dev` of cais/mmlu."""


class BenchmarkConfig(Section):
    """One public benchmark, asked through lm-eval."""

    task: BenchmarkTask = Field(description="Which benchmark")
    few_shot: Annotated[int, Field(ge=0)] = Field(0, description="Worked examples before each question")
    limit: Positive | None = Field(None, description="Rows that are asked, drawn by the seed; absent: all")
    max_new_tokens: Positive = Field(512, description="Longest answer in tokens; mmlu writes none")
    chat: bool | None = Field(
        None,
        description="Ask through the chat template, gsm8k with the system message of System 2; absent: gsm8k only",
    )
    data: str | None = Field(
        None, description="Rows: a .jsonl, .jsonl.gz, .csv or .parquet file or its s3:// address; absent: from the hub"
    )
    few_shot_data: str | None = Field(
        None, description="Where worked examples come from; absent: the hub's own, or rows of `data` then left out"
    )
    digest: str | None = Field(None, description="sha256 of the rows; filled in by `plan`")

    @model_validator(mode="after")
    def _fits(self) -> BenchmarkConfig:
        if self.task == "humaneval" and self.few_shot:
            raise ValueError("few_shot: humaneval has no worked examples; leave it out")
        if self.task == "mmlu" and self.data is None and self.few_shot > MMLU_SHOTS:
            raise ValueError(
                f"few_shot: the hub has {MMLU_SHOTS} worked examples of each subject of mmlu, fewer than "
                f"{self.few_shot}; lower it, or name rows in data and few_shot_data"
            )
        if self.few_shot_data is not None and self.data is None:
            raise ValueError("few_shot_data: does nothing where the rows come from the hub; give data too")
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
    benchmarks: tuple[BenchmarkConfig, ...] = Field((), description="Public benchmarks that every model is asked too")

    @model_validator(mode="after")
    def _options_are_of_the_backend(self) -> EvaluateConfig:
        if self.vllm is not None and self.backend != "vllm":
            raise ValueError("vllm: does nothing where backend is transformers; leave it out or set backend to vllm")
        return self

    @model_validator(mode="after")
    def _tasks_differ(self) -> EvaluateConfig:
        tasks = [benchmark.task for benchmark in self.benchmarks]
        twice = sorted({task for task in tasks if tasks.count(task) > 1})
        if twice:
            raise ValueError(f"benchmarks: {twice[0]} is named twice; name each once")
        return self
