"""Task files of lm-eval with rows beside them, and what asks them."""

from __future__ import annotations

import math

import pytest
import torch
import yaml

from lorapar.config import BenchmarkConfig, EvaluateConfig, ModelConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import check_benchmarks

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
CAPITALS = [{"country": f"land {n}", "capital": f"town {n}"} for n in range(5)]
ANIMALS = [{"q": f"Which lives in water, {n}?", "options": ["cod", "cat", "cow"], "right": n % 3} for n in range(4)]
TASKS = {
    "capitals": {
        "output_type": "generate_until",
        "doc_to_text": "Capital of {{country}}?",
        "doc_to_target": "{{capital}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 2.5},
    },
    "animals": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "options",
        "doc_to_target": "right",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "endings": {
        "output_type": "loglikelihood",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_target": " {{capital}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{country}} and {{capital}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


def write_task(place, name: str, values: dict, rows: str = "capitals", text: str = "") -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"data/{rows}.jsonl"}}}
    whole = {"task": name, **data, "test_split": "test", **values}
    (place / f"{name}.yaml").write_text(yaml.safe_dump(whole) + text)


def config(folder, task: str, **settings) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate({"task": task, "task_folder": str(folder), **settings})


def wrong(folder, task: str, judged=(), **settings) -> str:
    """What `plan` says."""
    with pytest.raises(BadInputError) as refused:
        check_benchmarks(EvaluateConfig(benchmarks=(config(folder, task, **settings),)), 0, judged)
    message = str(refused.value)
    assert message.startswith(f"evaluate.benchmarks: {task}: ")
    assert "\n" not in message
    return message


def log_likelihood(model, tokenizer, prompt: str, continuation: str) -> float:
    ids = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return math.fsum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))
