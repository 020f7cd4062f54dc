"""Every block of settings in the documentation goes through `plan`, on the preset tiny with rows and models from here.

Names of places elsewhere (a hub, a bucket, OWNER/NAME) are taken for files of this machine; all else stands as it is
shown. What a block needs that is not here is in `LACKS`, with the one line that `plan` says then.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import ModelConfig, RunConfig, load_config, preset_text
from lorapar.errors import LoraparError
from lorapar.local.planning import plan_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BASE = ModelConfig(name="builtin:tiny", dtype="float32")
BLOCKS = [
    (f"{page.stem}-{number}", block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]
LACKS = {
    "data-1": r"none of the \d+ rows for RL has a reference answer",
    "flywheel-0": r"data\.source: capture:support: no such capture in registry",
    "teachers-0": "vllm",
}
TASK = {
    "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test",
    "doc_to_text": "{{question}}",
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the blocks name: rows of each kind, a model, an adapter, a reward model, task files."""
    place = tmp_path_factory.mktemp("here")
    sums = [{"question": f"{n} + 2?", "answer": f"Add 2.\n#### {n + 2}", "reference": str(n + 2)} for n in range(1200)]
    _lines(place / "rows.jsonl", sums)
    _lines(place / "gsm8k.jsonl", [{key: row[key] for key in ("question", "answer")} for row in sums])
    (place / "tickets.csv").write_text(
        "text,product,reply,code\n" + "".join(f"What of {n}?,pens,It is {n}.,{n}\n" for n in range(400)),
        encoding="utf-8",
    )
    talk = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    talks = [{"dialogue": [{**talk[0], "content": f"{n}+1?"}, talk[1]], "persona": "Be kind."} for n in range(40)]
    pq.write_table(pa.Table.from_pylist(talks), place / "talks.parquet")
    test = "assert f({}) == {}"
    _lines(
        place / "problems.jsonl",
        [
            {"text": f"Add {n}.", "code": f"def f(x):\n    return x + {n}", "test_list": [test.format(1, n + 1)]}
            for n in range(40)
        ],
    )
    _tasks(place)
    model = load_model(BASE)
    model.save_pretrained(place / "model")
    load_tokenizer(BASE).save_pretrained(place / "model")
    save_adapter(attach(model, AdapterSettings(rank=4, alpha=8), seed=0), place / "adapter")
    _reward_model(place / "reward")
    (place / "my_rewards.py").write_text("def short(completions, references):\n    return [1.0 for _ in completions]\n")
    return place


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _tasks(place: Path) -> None:
    (place / "tasks").mkdir()
    (place / "data").mkdir()
    rows = [{"question": f"{n}?", "answer": str(n), "choices": ["1", "2"], "right": n % 2} for n in range(6)]
    _lines(place / "tasks" / "rows.jsonl", rows)
    choice = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "right"}
    both = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    said = {"output_type": "generate_until", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["\n"]}}
    for name, values in (
        ("capitals", said),
        ("arc_challenge", {**choice, "metric_list": both}),
        ("gsm8k_cot", {
            **said, "fewshot_split": "test",
            "filter_list": [{"name": "flexible-extract", "filter": [{"function": "take_first"}]}],
        }),
    ):  # fmt: skip
        (place / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **TASK, **values}))
    row = {"task_id": "t/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n"}
    tests = "def check(candidate):\n    assert candidate() == 1\n"
    (place / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps({**row, "test": tests}).encode()))
    law = [{"question": f"{n}?", "subject": "law", "choices": list("wxyz"), "answer": n % 4} for n in range(9)]
    _lines(place / "mmlu.jsonl", law)


def _reward_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = load_tokenizer(BASE)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **small)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def local(value: Any, key: str = "") -> Any:
    """A block with places of this folder for those elsewhere."""
    if isinstance(value, dict):
        found = {name: local(one, name) for name, one in value.items()}
        if str(value.get("source", "")).startswith("hub:"):
            found.pop("subset", None)
        if key == "reward_model":
            found["name"] = "reward"
        if value.get("task") in ("arc_challenge", "gsm8k_cot"):
            found["task_folder"] = "tasks"
        if value.get("task") == "mmlu":
            found |= {"data": "mmlu.jsonl", "few_shot": 2}
        if value.get("task") in ("gsm8k", "humaneval") and "data" not in value:
            found["data"] = {"gsm8k": "gsm8k.jsonl", "humaneval": "data/HumanEval.jsonl.gz"}[value["task"]]
        return found
    if isinstance(value, list):
        return [local(one, key) for one in value]
    if not isinstance(value, str):
        return value
    value = {"hub:openai/gsm8k": "gsm8k.jsonl", "support@production": "adapter"}.get(value, value)
    if key in ("name", "model") and value in ("Qwen/Qwen2.5-7B-Instruct", "OWNER/NAME"):
        return "model"
    if value.startswith("s3://"):
        return {"registry": "registry", "qwen2.5-7b": "model"}.get(value.rpartition("/")[2], "gsm8k.jsonl")
    return value


def merged(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **{name: merged(under.get(name), value) for name, value in over.items()}}
    return over


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_a_block_of_settings_is_planned(here: Path, tmp_path: Path, monkeypatch, name: str, block: str) -> None:
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    for key in re.findall(r"\b[A-Z]+_KEY\b", block):
        monkeypatch.setenv(key, "secret")
    own = local(yaml.safe_load(block))
    under = yaml.safe_load(preset_text("tiny"))
    if {"source", "sources"} & set(own.get("data", {})):
        under.pop("data")
    elif "data" in own:
        under["data"] = {"source": "rows.jsonl"}
    if "systems" in own:  # what the preset says of teachers and sft is about two
        del under["teachers"], under["sft"]
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(merged(under, own)), encoding="utf-8")
    said = refusal(load_config(file=file), tmp_path / "run")
    assert (said is not None) == (name in LACKS), said
    assert re.search(LACKS.get(name, ""), said or "")


def refusal(config: RunConfig, folder: Path) -> str | None:
    """The one line that `plan` ends with; None where it comes through."""
    try:
        assert plan_run(config, folder, until=None, fresh=False).lines
    except LoraparError as error:
        return str(error)
    return None


def test_there_are_blocks_at_all() -> None:
    assert len(BLOCKS) > 20
