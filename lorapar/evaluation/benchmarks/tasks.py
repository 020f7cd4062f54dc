"""Task objects of lm-eval, from the task files beside this one and rows that are already here."""

from __future__ import annotations

from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import TagsConfig
from lorapar.evaluation.benchmarks import scoring
from lorapar.evaluation.benchmarks.kinds import Row
from lorapar.evaluation.benchmarks.rows import BenchmarkRows

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_SUBJECT = "{{subject | replace('_', ' ')}}"


def task_config(name: str) -> dict[str, Any]:
    """What a task file says; functions of `scoring` in the place of their names."""
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with one more tag
    return config


def build_tasks(
    benchmark: BenchmarkRows, rule: AnswerRule = EXACT, tags: TagsConfig | None = None, *, opened: bool = False
) -> dict[str, Task]:
    """By name, the tasks that together ask all rows: one for each subject of mmlu, one for the other benchmarks.

    `rule`: how answers of gsm8k are compared; `tags`: what stands around their steps and results, of which a prompt
    may have `opened` the first.
    """
    from lm_eval.api.task import ConfigurableTask

    groups: dict[str, tuple[list[Row], list[Row]]] = {}
    for place, rows in enumerate((benchmark.rows, benchmark.shots)):
        for row in rows:
            groups.setdefault(row.get("subject", ""), ([], []))[place].append(row)
    tasks = {}
    for subject, (asked, shots) in sorted(groups.items()):
        if asked:
            config = _filled_in(benchmark, subject, asked, shots)
            if benchmark.name == "gsm8k":
                tags = tags or TagsConfig()
                config["process_results"] = scoring.gsm8k_by(rule, partial(tags.read, opened=opened))
                config["doc_to_target"] = tags.written(config["doc_to_target"])
            tasks[config["task"]] = ConfigurableTask(config=config)
            tasks[config["task"]].set_config("num_fewshot", len(shots))
    return tasks


def _filled_in(benchmark: BenchmarkRows, subject: str, asked: list[Row], shots: list[Row]) -> dict[str, Any]:
    """The task file's settings, reading these rows and nothing else."""
    from datasets import Dataset, DatasetDict

    config = task_config(benchmark.name)
    test, few = config["test_split"], config.get("fewshot_split", "train")
    splits = {test: Dataset.from_list(asked), few: Dataset.from_list(shots or asked[:1])}
    config.pop("dataset_path")
    config.pop("dataset_name", None)
    config["custom_dataset"] = lambda **_: DatasetDict(splits)
    config["task"] += f"_{subject}" if subject else ""
    if "description" in config:
        config["description"] = config["description"].replace(_SUBJECT, subject.replace("_", " "))
    if "generation_kwargs" in config:
        config["generation_kwargs"]["max_gen_toks"] = benchmark.config.longest_answer
    return config


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's tag for functions."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return getattr(scoring, str(loader.construct_scalar(node)).removeprefix("scoring."))


_Loader.add_constructor("!function", _function)
