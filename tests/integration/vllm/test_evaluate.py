"""evaluate on the real vLLM: base and adapters answer as with transformers, held-out rows and benchmarks."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import StopStrings, load_model, load_tokenizer
from lorapar.config import BenchmarkConfig, EvaluateConfig, ModelConfig, PromptConfig
from lorapar.evaluation.benchmarks import load_rows
from lorapar.evaluation.benchmarks.ask import Questioning, ask_all
from lorapar.evaluation.engine import open_engine
from lorapar.evaluation.vllm_engine import VllmModel
from lorapar.progress import Silent
from lorapar.prompts import encode_rows, prompt_ids, prompt_messages
from lorapar.records import Example

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
PROMPTS = PromptConfig(system2="Think.")
ROWS = [
    (Example(id=f"r{n}", question="why " * n + f"{n}+2?", answer=f"<answer>{n + 2}</answer>"), "system2")
    for n in range(12)
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


@pytest.fixture(scope="module")
def contestants(tmp_path_factory):
    """The base and two adapters that answer otherwise."""
    found = {"base": None}
    for seed, name in enumerate(("after_sft", "after_rl")):
        model = attach(load_model(BASE), AdapterSettings(rank=2, alpha=4.0, init="paper"), seed=seed)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.mul_(40)
        found[name] = tmp_path_factory.mktemp(name)
        save_adapter(model, found[name])
    return found


@pytest.fixture(scope="module")
def engines(tokenizer, contestants):
    """Both backends, open."""
    folders = list(contestants.values())
    with (
        open_engine(BASE, EvaluateConfig(), tokenizer, folders, Silent()) as transformers,
        open_engine(BASE, EvaluateConfig(backend="vllm"), tokenizer, folders, Silent()) as vllm,
    ):
        yield transformers, vllm


def test_answers_and_losses_are_those_of_transformers_in_any_order(engines, contestants, tokenizer) -> None:
    prompts = [prompt_ids(tokenizer, prompt_messages(row, system, PROMPTS)) for row, system in ROWS]
    encoded = encode_rows(tokenizer, ROWS, PROMPTS, max_length=1 << 30)
    seen = {}
    # The base before, between and after the adapters: what is loaded must not leak into it.
    for name in ("base", "after_sft", "base", "after_rl", "after_sft", "base"):
        answers, losses = [], []
        for engine in engines:
            with engine.asked(contestants[name]) as model:
                answers.append(model.generate(prompts, 12))
                losses.append(model.losses(encoded))
        assert answers[0] == answers[1]
        assert losses[1] == pytest.approx(losses[0], abs=2e-4)
        assert seen.setdefault(name, answers[1]) == answers[1]
    assert len({json.dumps(answers) for answers in seen.values()}) == 3


def test_an_answer_ends_with_the_token_that_completes_a_stop_string(engines, tokenizer, tmp_path) -> None:
    """As with transformers, whose whole answers show where that is."""
    prompts = [prompt_ids(tokenizer, prompt_messages(row, system, PROMPTS)) for row, system in ROWS]
    transformers, vllm = engines
    with transformers.asked(None) as model:
        free = model.generate(prompts, 12)
    text = tokenizer.decode(free[0][4:6])
    shutil.copytree(tokenizer.name_or_path, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"stop_strings": [text]}))
    ending = load_tokenizer(BASE.model_copy(update={"name": str(tmp_path / "model")}))
    strings = StopStrings(ending)
    assert strings.texts == (text,)
    answers = VllmModel(vllm._llm, ending, vllm._stops, None).generate(prompts, 12)
    assert answers == [strings.trim(row) for row in free]
    assert len(answers[0]) < len(free[0])


CHECK = "def check(candidate):\n    assert candidate(1) == 1\n"


def benchmarks(folder):
    files = {
        "gsm8k": [{"question": f"{n}+2?", "answer": f"so\n#### {n + 2}"} for n in range(8)],
        "mmlu": [{"subject": "law", "question": f"{n}?", "choices": list("abcd"), "answer": n % 4} for n in range(8)],
        "humaneval": [
            {"task_id": f"H/{n}", "prompt": f"def f{n}(a):\n", "test": CHECK, "entry_point": f"f{n}"} for n in range(4)
        ],
    }
    for task, rows in files.items():
        path = folder / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        shots = 0 if task == "humaneval" else 2
        yield load_rows(BenchmarkConfig(task=task, few_shot=shots, max_new_tokens=8, data=str(path)), seed=0)


def test_benchmarks_are_answered_as_with_transformers_and_go_on_from_a_journal(
    engines, contestants, tokenizer, tmp_path
) -> None:
    rows = list(benchmarks(tmp_path))
    found = []
    for number, engine in enumerate(engines):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        added: list[None] = []
        how = Questioning(tokenizer, PROMPTS, 4, scratch, partial(added.append, None), Silent())
        asked = ask_all(contestants, engine, rows, how)
        # One entry a response: six and four texts, and four letters for each of six questions, from three models.
        assert len(added) == 3 * (6 + 4 + 4 * 6)
        assert [one.answers for one in ask_all(contestants, engine, rows, how)] == [one.answers for one in asked]
        assert len(added) == 3 * (6 + 4 + 4 * 6)
        found.append(asked)
    by_transformers, by_vllm = ([answer for one in asked for answer in one.answers] for asked in found)
    assert [message(answer) for answer in by_vllm] == [message(answer) for answer in by_transformers]
    assert len({answer.text for answer in by_vllm if answer.benchmark == "gsm8k"}) > 3


def message(answer):
    """An answer without half a character at its end: vLLM keeps that back, transformers shows it as broken."""
    return answer.model, answer.example_id, answer.text.rstrip("\ufffd"), answer.strict, answer.lenient
