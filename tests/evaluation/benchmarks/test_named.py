"""Tasks of lm-eval by name, from your own folder with rows beside them: asked by the real lm-eval, offline."""

from __future__ import annotations

import json
import math

import pytest

from lorapar.config import BenchmarkConfig, EvaluateConfig, PromptConfig
from lorapar.data.overlap import overlaps
from lorapar.errors import BadInputError, UnreachableError
from lorapar.evaluation import TransformersEngine, benchmark_metrics
from lorapar.evaluation.benchmarks import load_benchmark, resolve_benchmarks
from lorapar.evaluation.benchmarks.ask import Questioning, ask_all
from lorapar.progress import Silent
from lorapar.prompts import render
from lorapar.records import Example
from tests.evaluation.benchmarks.named_tasks import (
    ANIMALS,
    CAPITALS,
    TASKS,
    config,
    log_likelihood,
    write_task,
    wrong,
)


def test_choices_are_compared_by_likelihood_and_every_row_has_a_verdict(folder, asked, base, tokenizer) -> None:
    found = asked(config(folder, "animals"))
    by_text = {answer.example_id: answer for answer in found.answers}
    rows = load_benchmark(config(folder, "animals"), 0)
    for name, row in zip(rows.ids, ANIMALS, strict=True):
        likelihoods = [log_likelihood(base, tokenizer, row["q"], f" {one}") for one in row["options"]]
        best = likelihoods.index(max(likelihoods))
        assert by_text[name].text == row["options"][best]
        assert by_text[name].strict is by_text[name].lenient is (best == row["right"])
    share = sum(bool(answer.strict) for answer in found.answers) / 4
    assert found.about["metric"] == "acc,none"
    assert found.about["score"] == share
    assert found.about["stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 3))
    assert set(found.about["scores"]) == {"acc,none", "acc_stderr,none", "acc_norm,none", "acc_norm_stderr,none"}


def test_answers_are_written_within_the_tasks_own_limit_and_one_row_has_no_standard_error(folder, asked) -> None:
    found = asked(config(folder, "capitals", limit=1))
    (answer,) = found.answers
    assert 0 < answer.tokens <= 3
    assert (answer.strict, found.about["score"]) == (False, 0.0)
    assert found.about["stderr"] == "N/A"
    assert found.about["version"] == "2.5"
    figures = {**benchmark_metrics(found.answers, found.seconds, 0.95), **found.about}
    assert json.loads(json.dumps(figures))["stderr"] == "N/A"


def test_likelihoods_of_endings_and_whole_texts_are_asked_too(folder, asked, base, tokenizer) -> None:
    ends = asked(config(folder, "endings"))
    assert ends.about["metric"] == "acc,none"
    assert [answer.strict for answer in ends.answers] == [False] * 5
    texts = asked(config(folder, "texts"))
    assert texts.about["metric"] == "word_perplexity,none"
    assert [answer.strict for answer in texts.answers] == [None] * 5
    assert texts.about["score"] > 1
    assert benchmark_metrics(texts.answers, 1.0, 0.95)["accuracy"] is None


def test_settings_win_over_the_file_and_a_chat_has_the_system_message_that_is_named(folder, asked, tmp_path) -> None:
    changed = {"few_shot": 1, "max_new_tokens": 2, "chat": True, "system": "system1", "limit": 2}
    found = asked(config(folder, "capitals", overrides={"doc_to_text": "Where is {{country}}?"}, **changed))
    assert all(answer.tokens <= 2 for answer in found.answers)


def test_the_chat_template_and_system_message_are_those_of_the_run(folder, tokenizer, base, tmp_path) -> None:
    from lorapar.evaluation.transformers_engine import TransformersModel

    seen: list[str] = []
    engine = TransformersEngine(base, tokenizer, autocast=False)
    plain = TransformersModel.for_lm_eval

    def listening(self, size):
        model = plain(self, size)
        generate = model.generate_until
        model.generate_until = lambda requests, **more: (
            seen.extend(one.args[0] for one in requests) or generate(requests, **more)
        )
        return model

    TransformersModel.for_lm_eval, kept = listening, plain
    try:
        how = Questioning(tokenizer, PromptConfig(system1="Be brief."), 4, tmp_path, lambda: None, Silent())
        settings = config(folder, "capitals", chat=True, system="system1", limit=1)
        ask_all({"base": None}, engine, [load_benchmark(settings, 0)], how)
    finally:
        TransformersModel.for_lm_eval = kept
    (place,) = load_benchmark(settings, 0).asked
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Capital of {CAPITALS[place]['country']}?"},
    ]
    assert seen == [render(tokenizer, chat)]


def test_the_seed_draws_rows_and_their_names_are_their_contents(folder) -> None:
    drawn = [load_benchmark(config(folder, "capitals", limit=2), seed) for seed in range(4)]
    assert len({one.asked for one in drawn}) > 1
    assert drawn[0].remarks == ("capitals: limit is 2, so 2 of its 5 rows are asked",)
    assert drawn[0].asked == load_benchmark(config(folder, "capitals", limit=2), 0).asked
    (folder / "data" / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CAPITALS[::-1] * 2))
    again = load_benchmark(config(folder, "capitals"), 0)
    assert again.ids[:5] == drawn[0].ids[::-1]
    assert again.ids[5:] == tuple(f"{name}-2" for name in again.ids[:5])


def test_changed_rows_are_found_by_their_digest(folder) -> None:
    settings = EvaluateConfig(benchmarks=(config(folder, "capitals"),))
    (resolved,) = resolve_benchmarks(settings).benchmarks
    assert load_benchmark(resolved, 0).digest == resolved.digest
    (folder / "data" / "capitals.jsonl").write_text(json.dumps({"country": "x", "capital": "y"}) + "\n")
    with pytest.raises(BadInputError, match="the rows of capitals are not those that plan saw"):
        load_benchmark(resolved, 0)


def test_a_name_that_no_task_has(folder) -> None:
    assert "(did you mean 'capitals'?); it has: animals, capitals" in wrong(folder, "capital")
    with pytest.raises(BadInputError, match=r"lm-eval has no task of this name \(did you mean 'hellaswag'"):
        load_benchmark(BenchmarkConfig(task="helaswag"), 0)


def test_every_task_of_lm_eval_is_found_whatever_the_quotes_around_its_fields() -> None:
    from lorapar.evaluation.benchmarks.task_files import find_task

    stem = find_task(BenchmarkConfig(task="mmlu_stem"))
    assert "mmlu_anatomy" in stem.tasks()
    assert find_task(BenchmarkConfig(task="mmlu_anatomy")).values["dataset_name"] == "anatomy"
    assert len(find_task(BenchmarkConfig(task="bbh")).tasks()) == 27


def test_folders_that_hold_no_task(tmp_path, folder) -> None:
    assert "is no folder" in wrong(tmp_path / "missing", "x")
    assert "is a file" in wrong(folder / "capitals.yaml", "x")
    (tmp_path / "empty").mkdir()
    assert "holds no task file" in wrong(tmp_path / "empty", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("doc_to_text: !function own.ask\n", "(own.ask)"),
        ("process_docs: !function own.rows\n", "(own.rows)"),
        ("class: !function own.Task\n", "(own.Task)"),
    ],
)
def test_code_from_outside_needs_a_word(folder, text, message) -> None:
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    values = {name: value for name, value in TASKS["capitals"].items() if name != text.partition(":")[0]}
    write_task(folder, "coded", values, text=text)
    found = wrong(folder, "coded")
    assert "runs Python code from outside lorapar" in found
    assert message in found
    assert "trust_code: true" in found


def test_code_that_an_included_file_names_is_seen_and_runs_once_allowed(folder) -> None:
    (folder / "own.py").write_text("def ask(doc):\n    return 'Where is ' + doc['country']\n")
    (folder / "shared.yml").write_text("doc_to_text: !function own.ask\n")
    values = {name: value for name, value in TASKS["capitals"].items() if name != "doc_to_text"}
    write_task(folder, "coded", values, text="include: shared.yml\n")
    assert "own.ask" in wrong(folder, "coded")
    task = load_benchmark(config(folder, "coded", trust_code=True), 0).task
    assert task.doc_to_text(CAPITALS[0]) == "Where is land 0"
    (folder / "own.py").write_text("def ask(doc):\n    return 'Where lies ' + doc['country']\n")


def test_a_template_cannot_reach_into_python(folder) -> None:
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    write_task(folder, "reaching", {**TASKS["capitals"], "doc_to_text": reach})
    assert "SecurityError" in wrong(folder, "reaching")


def test_what_the_model_writes_is_never_run_outside_the_sandbox(folder) -> None:
    write_task(folder, "coding", {**TASKS["capitals"], "unsafe_code": True})
    assert "outside a sandbox" in wrong(folder, "coding", trust_code=True)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("capitals", {"doc_to_text": "{{city}}?"}, "row 1: 'city' is undefined: a template"),
        (
            "animals",
            {"doc_to_target": "{{right + 2}}"},
            "row 2: its right answer (doc_to_target) is 3, which is not among its 3",
        ),
        ("capitals", {"output_type": "poem"}, "invalid output_type 'poem'"),
        ("capitals", {"metric_list": [{"metric": "luck"}]}, "no metric 'luck'"),
        ("capitals", {"metric_list": [{"metric": "exact_mach"}]}, "(did you mean 'exact_match'?)"),
        ("capitals", {"test_split": "proof"}, "proof"),
        ("capitals", {"dataset_kwargs": {"data_files": {"test": "data/none.jsonl"}}}, "none.jsonl"),
        ("capitals", {"sorcery": 1}, "sorcery"),
        ("capitals", {"doc_to_text": "contry"}, "doc_to_text is 'contry', neither a column (did you mean 'country'?)"),
        ("capitals", {"doc_to_text": "Which capital?"}, "nor a template, so it would be the same in every row"),
        ("capitals", {"doc_to_target": "captial"}, "doc_to_target is 'captial', neither a column (did you mean 'cap"),
        ("animals", {"doc_to_text": "question"}, "doc_to_text is 'question', neither a column"),
        ("endings", {"doc_to_target": "capitol"}, "doc_to_target is 'capitol', neither a column"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_in_a_file_or_its_rows_is_reported_before_anything_is_trained(
    folder, task, change, message
) -> None:
    write_task(folder, task, {**TASKS[task], **change}, "animals" if task == "animals" else "capitals")
    assert message in wrong(folder, task)


def test_a_file_that_is_no_yaml_names_its_line(folder) -> None:
    (folder / "odd.yaml").write_text("task: odd\nmetric_list: [\n")
    assert "odd.yaml:3: " in wrong(folder, "odd")


def test_a_data_set_that_is_not_here_is_named(monkeypatch) -> None:
    import datasets

    def silence(*_, **__):
        raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", silence)
    with pytest.raises(UnreachableError, match=r"hellaswag: its data set Rowan/hellaswag cannot be read here"):
        load_benchmark(BenchmarkConfig(task="hellaswag"), 0)


def test_a_gate_needs_a_metric_that_judges_rows(folder) -> None:
    assert "its metrics (word_perplexity) do not say of each row" in wrong(folder, "texts", judged=("texts",))
    assert "the task has no metric 'acc_nrm' (did you mean 'acc_norm'?)" in wrong(folder, "animals", metric="acc_nrm")
    assert "the task has no filter 'strict'; it has: none" in wrong(folder, "animals", metric="acc,strict")
    assert load_benchmark(config(folder, "animals", metric="acc_norm"), 0).metric == ("acc_norm", "none")
    assert load_benchmark(config(folder, "endings", metric="perplexity"), 0).metric is None


def test_more_worked_examples_than_there_are(folder) -> None:
    assert "fewer worked examples than few_shot 5" in wrong(folder, "capitals", few_shot=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "gsm8k", "metric": "acc"}, "metric: does nothing for gsm8k"),
        ({"task": "hellaswag", "data": "x.jsonl"}, "data: only gsm8k, mmlu, humaneval take rows here"),
        ({"task": "hellaswag", "trust_code": True}, "trust_code: does nothing without task_folder"),
        ({"task": "hellaswag", "system": "system1"}, "system: does nothing where the task is not asked by chat"),
        ({"task": "system1"}, "is what held-out rows are counted under"),
        ({"task": "../x"}, "should match pattern"),
    ],
    ids=str,
)
def test_settings_that_do_nothing_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig.model_validate(settings)


def test_its_questions_are_those_that_training_rows_are_compared_with(folder) -> None:
    limited = load_benchmark(config(folder, "capitals", limit=2), 0)
    questions = dict(limited.questions())
    assert questions == {limited.ids[n]: f"Capital of {CAPITALS[n]['country']}?" for n in limited.asked}
    texts = dict(load_benchmark(config(folder, "texts"), 0).questions())
    assert "land 0 and town 0" in texts.values()


BLANKS = (
    "doc_to_text: !function blanks.right\ndoc_to_target: !function blanks.end\ndoc_to_choice: !function blanks.both\n"
)
BLANKS_CODE = """
def right(doc):
    return int(doc["answer"]) - 1

def end(doc):
    return doc["sentence"].partition("_")[2].strip()

def both(doc):
    return [doc["sentence"].partition("_")[0] + doc[name] for name in ("one", "two")]
"""


@pytest.mark.parametrize(
    ("values", "text", "asked"),
    [
        ({"doc_to_text": "Question: {{q}}\nAnswer:", "doc_to_choice": "options"}, "", "which lives in water, 2"),
        ({"doc_to_text": "", "doc_to_choice": "options"}, "", "Which lives in water, 2?"),
        ({"doc_to_text": "", "doc_to_choice": "{{[q + ' cod', q + ' cat', q]}}"}, "", "Which lives in water, 2? cat"),
        ({}, BLANKS, "Ann asked Mary what time it was, as _ had no watch."),
        ({}, BLANKS, "Ann asked Mary what time it was, as Mary had no watch."),
    ],
)
def test_a_row_is_found_again_by_its_own_text_whatever_a_task_asks(folder, values, text, asked) -> None:
    blank = {
        "sentence": "Ann asked Mary what time it was, as _ had no watch.",
        "one": "Ann",
        "two": "Mary",
        "answer": "1",
    }
    (folder / "data" / "blanks.jsonl").write_text(json.dumps(blank) + "\n")
    (folder / "blanks.py").write_text(BLANKS_CODE)
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    values = {"output_type": "multiple_choice", "metric_list": metrics, **values}
    values = values if text else {**values, "doc_to_target": "right"}
    write_task(folder, "found", values, "blanks" if text else "animals", text)
    task = load_benchmark(config(folder, "found", trust_code=bool(text)), 0)
    rows = [Example(id="leak", question=asked, answer="0"), Example(id="own", question="1", answer="0")]
    assert [one.example_id for one in overlaps(rows, {"found": task.questions()})] == ["leak"]


def test_cells_that_several_rows_share_and_answers_are_no_questions(folder) -> None:
    rows = [{"task": "Say what it is.", "q": f"What is it, {n}?", "rationale": f"It is a cat {n}."} for n in range(3)]
    (folder / "data" / "blanks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "blanks.py").write_text("def ask(doc):\n    return 'Q: ' + doc['q']\n")
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    values = {"output_type": "generate_until", "metric_list": metrics, "doc_to_target": "{{rationale}}"}
    write_task(folder, "found", values, "blanks", "doc_to_text: !function blanks.ask\n")
    found = load_benchmark(config(folder, "found", trust_code=True), 0).questions()
    assert sorted(text for _, text in found) == sorted(
        f"{start}What is it, {n}?" for n in range(3) for start in ("Q: ", "")
    )


def test_how_rows_are_asked_is_no_part_of_their_digest(folder) -> None:
    plain = load_benchmark(config(folder, "capitals"), 0).digest
    asked = {"chat": True, "system": "system1", "max_new_tokens": 9, "metric": "exact_match"}
    assert load_benchmark(config(folder, "capitals", **asked), 0).digest == plain
    assert load_benchmark(config(folder, "capitals", limit=2), 0).digest != plain
