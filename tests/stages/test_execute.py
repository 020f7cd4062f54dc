"""execute: generated code is scored in the sandbox; everything else passes through; killed and continued."""

from __future__ import annotations

import json

import pytest

from lorapar.evaluation.benchmarks import PROBLEMS_FILE, Problem
from lorapar.evaluation.intervals import wilson_interval
from lorapar.evaluation.sandbox import Sandbox
from lorapar.records import Answer, read_records, write_json, write_records
from lorapar.store import seal, verify

SETTINGS = {"execute": {"wall_seconds": 5, "cpu_seconds": 2, "memory_mib": 256, "workers": 2}}
TEXTS = {
    "base": ["    return a\n", "    return a\n", "    while True: pass\n"],
    "after_sft": ["    return a + 1\n", "    return a\n", "    import os; os._exit(0)\n"],
    "after_rl": ["    return a + 1\n", "    return a + 2\n", "    return a + 4\n"],
}


def test_an_evaluation_without_code_passes_through(kit, tmp_path) -> None:
    evaluation = tmp_path / "evaluation"
    (evaluation / "benchmarks").mkdir(parents=True)
    (evaluation / "answers.jsonl").write_text("{}\n")
    (evaluation / "benchmarks" / "gsm8k.jsonl").write_text("{}\n")
    before = seal(evaluation, "evaluate.evaluation")
    _, out = kit.run("execute", tmp_path / "out", SETTINGS, {"evaluation": evaluation})
    assert verify(out / "evaluation").files == before.files


@pytest.fixture
def evaluation(tmp_path):
    """Three problems answered by three models, beside held-out answers and figures of their own."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    problems = [
        Problem(
            benchmark="humaneval",
            example_id=f"HumanEval/{n}",
            prompt=f"def add{n}(a):\n",
            test=f"def check(candidate):\n    assert candidate(1) == {n + 2}\n",
            entry_point=f"add{n}",
        )
        for n in range(3)
    ]
    write_records(folder / PROBLEMS_FILE, problems)
    code = [
        Answer(example_id=f"HumanEval/{n}", benchmark="humaneval", model=model, text=text, tokens=3)
        for model, texts in TEXTS.items()
        for n, text in enumerate(texts)
    ]
    own = [
        Answer(example_id="w", system="system1", model=model, text="x", tokens=1, strict=True, lenient=True, loss=1.0)
        for model in TEXTS
    ]
    write_records(folder / "answers.jsonl", [*own, *code])
    figures = {"benchmarks": {"humaneval": {"rows": 3, "accuracy": None, "seconds_per_answer": 0.5}}}
    write_json(folder / "summary.json", {**dict.fromkeys(TEXTS, figures), "changes": {}, "confidence": 0.9})
    seal(folder, "evaluate.evaluation")
    return folder


def test_programs_decide_what_is_right(kit, evaluation, tmp_path) -> None:
    metrics, out = kit.run("execute", tmp_path / "out", SETTINGS, {"evaluation": evaluation})
    assert metrics == {"executed_samples": 9.0, "passed_samples": 3.0}
    folder = out / "evaluation"
    answers = list(read_records(folder / "answers.jsonl", Answer))
    right = {model: [a.strict for a in answers if a.model == model and a.benchmark] for model in TEXTS}
    assert right == {"base": [False] * 3, "after_sft": [True, False, False], "after_rl": [True, True, False]}
    assert [a.strict for a in answers if a.system] == [True] * 3
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["after_rl"]["benchmarks"]["humaneval"]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["interval"] == pytest.approx(wilson_interval(2, 3, 0.9))
    assert (found["rows"], found["seconds_per_answer"]) == (3, 0.5)
    change = summary["changes"]["humaneval"]["base_to_after_rl"]
    assert (change["wins"], change["losses"], change["rows"]) == (2, 0, 3)
    assert summary["changes"]["system1"]["base_to_after_rl"]["difference"] == 0.0
    assert summary["sandbox"]["gaps"] == []
    ends = [json.loads(line) for line in (folder / "executions.jsonl").read_text().splitlines()]
    statuses = {(end["model"], end["example_id"]): end["status"] for end in ends}
    assert statuses["base", "HumanEval/2"] == "timed_out"
    assert statuses["after_sft", "HumanEval/2"] == "failed"


def test_a_killed_call_does_not_run_a_program_twice(kit, evaluation, tmp_path, monkeypatch) -> None:
    settings = {"execute": {**SETTINGS["execute"], "workers": 1}}
    run, started = Sandbox.run, []

    def killed_at_the_third(self, source):
        if "check(add" in source:
            started.append(source)
            if len(started) == 3:
                raise KeyboardInterrupt
        return run(self, source)

    monkeypatch.setattr(Sandbox, "run", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        kit.run("execute", tmp_path / "out", settings, {"evaluation": evaluation})
    kit.run("execute", tmp_path / "out", settings, {"evaluation": evaluation})
    # Nine answers, two of them word for word another's: seven programs, of which two had ended, and one was lost.
    assert len(set(started)) == 7
    # The one after it may have begun before anybody knew.
    assert len(started) - 7 in {1, 2}
