"""Asking through lm-eval: prompts, verdicts and likelihoods against another computation; killed and continued."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
import torch

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.comparing import answer_rule
from lorapar.config import BenchmarkConfig, ModelConfig, PromptConfig
from lorapar.evaluation import TransformersEngine, generate_greedy, lenient_match, strict_match
from lorapar.evaluation.benchmarks import load_rows
from lorapar.evaluation.benchmarks.ask import Questioning, ask_all
from lorapar.evaluation.benchmarks.journal import Journal
from lorapar.evaluation.benchmarks.tasks import build_tasks
from lorapar.progress import Silent
from lorapar.prompts import render

BASE = ModelConfig(name="builtin:tiny", dtype="float32")


@pytest.fixture(scope="module")
def base():
    return load_model(BASE)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


@pytest.fixture
def asked(base, tokenizer, tmp_path):
    """Ask the base one benchmark; `on_add` is called after each response."""

    def one(config, on_add=lambda: None, tokenizer=tokenizer, folder=tmp_path):
        how = Questioning(tokenizer, PromptConfig(system2="Think."), 4, folder, on_add, Silent())
        engine = TransformersEngine(base, tokenizer, autocast=False)
        (found,) = ask_all({"base": None}, engine, [load_rows(config, seed=0)], how)
        return found

    return one


def test_gsm8k_is_asked_as_system_2_with_worked_examples_in_tags(benchmark, asked, base, tokenizer) -> None:
    config = benchmark("gsm8k", few_shot=1, max_new_tokens=6)
    rows = load_rows(config, seed=0)
    found = asked(config)
    assert [answer.example_id for answer in found.answers] == [row["id"] for row in rows.rows]
    shot = rows.shots[0]
    steps, number = (part.strip() for part in shot["answer"].split("####"))
    for row, answer in zip(rows.rows, found.answers, strict=True):
        chat = [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": shot["question"]},
            {"role": "assistant", "content": f"<reasoning>{steps}</reasoning><answer>{number}</answer>"},
            {"role": "user", "content": row["question"]},
        ]
        prompt = tokenizer(render(tokenizer, chat), add_special_tokens=False)["input_ids"]
        stops = [tokenizer.eos_token_id]
        (written,) = generate_greedy(base, [prompt], stop_ids=stops, pad_id=tokenizer.pad_token_id, max_new_tokens=6)
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert answer.text.strip() == text.strip()
        reference = row["answer"].split("####")[1].strip()
        assert answer.strict == bool(strict_match(answer.text, reference, "system2"))
        assert answer.lenient == bool(lenient_match(answer.text, reference))
    assert found.seconds > 0


def test_an_answer_ends_before_a_stop_string_of_the_model(benchmark, asked, tokenizer, tmp_path) -> None:
    config = benchmark("gsm8k", max_new_tokens=12)
    free = [answer.text for answer in asked(config).answers]
    text = next(found[0] for one in free if (found := re.findall(r"(?<=..)[A-Za-z ]{2}", one)))
    shutil.copytree(tokenizer.name_or_path, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"stop_strings": [text]}))
    ending = load_tokenizer(BASE.model_copy(update={"name": str(tmp_path / "model")}))
    (tmp_path / "again").mkdir()
    ended = [answer.text for answer in asked(config, tokenizer=ending, folder=tmp_path / "again").answers]
    assert ended == [one.partition(text)[0] for one in free]
    assert ended != free


def test_the_verdicts_of_a_task_follow_the_text(benchmark) -> None:
    (task,) = build_tasks(load_rows(benchmark("gsm8k"), seed=0)).values()
    document = {"question": "?", "answer": "so\n#### 1,000"}
    verdicts = {
        "<answer>1000</answer>": (1.0, 1.0),
        "that makes $1,000.00 in all": (0.0, 1.0),
        "<answer>7</answer>": (0.0, 0.0),
    }
    for text, (strict, lenient) in verdicts.items():
        assert task.process_results(document, [text]) == {"strict": strict, "lenient": lenient}


def test_mmlu_picks_the_likeliest_letter(benchmark, asked, base, tokenizer) -> None:
    config = benchmark("mmlu", few_shot=1)
    rows = load_rows(config, seed=0)
    shots = {row["subject"]: row for row in rows.shots}
    for row, answer in zip(rows.rows, asked(config).answers, strict=True):
        subject = row["subject"].replace("_", " ")
        prompt = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        shot = shots[row["subject"]]
        prompt += f"{question_text(shot)} {'ABCD'[shot['answer']]}\n\n{question_text(row)}"
        scores = [log_likelihood(base, tokenizer, prompt, f" {letter}") for letter in "ABCD"]
        assert answer.text == "ABCD"[scores.index(max(scores))]
        assert answer.strict is answer.lenient is (answer.text == "ABCD"[row["answer"]])
        assert answer.tokens == 0


def test_five_choices_are_asked_as_five(asked, base, tokenizer, tmp_path) -> None:
    row = {"subject": "law", "question": "Which?", "choices": ["a", "b", "c", "d", "e"], "answer": "e"}
    two = {**row, "question": "Which of two?", "choices": ["a", "b"], "answer": "b"}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, (row, two))))
    config = BenchmarkConfig(task="mmlu", data=str(tmp_path / "rows.jsonl"))
    opening = "The following are multiple choice questions (with answers) about law.\n\n"
    requests: list[None] = []
    found = asked(config, lambda: requests.append(None))
    assert len(requests) == 5 + 2
    for row, answer in zip(load_rows(config, seed=0).rows, found.answers, strict=True):
        letters = "ABCDE"[: len(row["choices"])]
        scores = [log_likelihood(base, tokenizer, opening + question_text(row), f" {one}") for one in letters]
        assert answer.text == letters[scores.index(max(scores))]
        assert answer.strict is (answer.text == letters[-1])


def question_text(row) -> str:
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCDE", row["choices"], strict=False))
    return f"{row['question']}{choices}\nAnswer:"


def log_likelihood(model, tokenizer, prompt: str, continuation: str) -> float:
    ids = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return math.fsum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_code_is_generated_and_neither_run_nor_judged(benchmark, asked, tmp_path) -> None:
    found = asked(benchmark("humaneval", max_new_tokens=5))
    assert [(answer.strict, answer.lenient) for answer in found.answers] == [(None, None)] * 3
    rows = load_rows(benchmark("humaneval"), seed=0)
    (task,) = build_tasks(rows).values()
    verdicts = task.process_results(rows.rows[0], [f"    open({str(tmp_path / 'run')!r}, 'w')\nadd0(1)\n"])
    assert all(math.isnan(verdict) for verdict in verdicts.values())
    assert not (tmp_path / "run").exists()


def test_a_killed_benchmark_asks_only_what_is_missing(benchmark, asked, tmp_path, monkeypatch) -> None:
    config = benchmark("gsm8k", max_new_tokens=4)
    added = []

    def killed_after_four() -> None:
        added.append(1)
        if len(added) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(config, killed_after_four)
    with (tmp_path / "base-gsm8k.jsonl").open("a") as file:
        file.write('{"request": "cut off')
    again = []
    killed = asked(config, lambda: again.append(1))
    assert len(again) == 2
    (tmp_path / "base-gsm8k.jsonl").unlink()
    whole = asked(config)
    assert killed.answers == whole.answers


def test_a_journal_is_json_lines_and_adds_up_the_time(tmp_path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", lambda: None)
    journal["a"] = (-1.5, True)
    journal["a"] = (-9.0, False)
    again = Journal(tmp_path / "journal.jsonl", lambda: None)
    assert again["a"] == (-1.5, True)
    assert len(again) == 1
    assert again.seconds == pytest.approx(journal.seconds)


def test_lm_eval_takes_the_task_files_as_they_are() -> None:
    from importlib import resources

    from lm_eval.tasks import TaskManager

    folder = resources.files("lorapar.evaluation.benchmarks")
    known = TaskManager(include_path=str(folder), include_defaults=False).all_tasks
    assert {"lorapar_gsm8k", "lorapar_mmlu", "lorapar_humaneval"} <= set(known)


def test_gsm8k_compares_answers_by_the_rule_of_the_run(benchmark) -> None:
    rows = load_rows(benchmark("gsm8k"), seed=0)
    document = {"question": "How much?", "answer": r"So. #### \frac{1}{\sqrt{2}}"}
    message = [r"<answer>\frac{\sqrt{2}}{2}</answer>"]
    with answer_rule("math") as rule:
        for tasks, right in ((build_tasks(rows), 0.0), (build_tasks(rows, rule), 1.0)):
            (task,) = tasks.values()
            assert task.process_results(document, message) == {"strict": right, "lenient": right}
