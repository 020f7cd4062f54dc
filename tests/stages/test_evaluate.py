"""Base, after SFT and after RL on the same held-out rows; killed and continued; limits and their draw."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorapar.adapter import load_adapter, save_adapter
from lorapar.basemodel import load_model, load_tokenizer, model_folder, resolve_model
from lorapar.config import EvaluateConfig, GateConfig, ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.evaluation import Answerer, Asking, judge, read_outcomes
from lorapar.evaluation.engine import open_engine
from lorapar.progress import Silent
from lorapar.prompts import prompt_ids, prompt_messages
from lorapar.records import Answer, Example, read_records
from lorapar.stages import evaluate as evaluate_stage
from lorapar.stages.contract import StageCall
from lorapar.store import open_store, seal
from tests.voting.api_server import MODEL, serving

BASE = ModelConfig(name="builtin:tiny", dtype="float32")


@pytest.fixture(scope="module")
def tuned(adapter, tmp_path_factory):
    """An adapter that answers otherwise than the base does."""
    folder = tmp_path_factory.mktemp("tuned")
    model = load_adapter(load_model(BASE), adapter, trainable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder)
    seal(folder, "rl.adapter")
    return folder


@pytest.fixture
def inputs(kit, adapter, tuned, tmp_path):
    heldout = tmp_path / "heldout"
    kit.rows_folder(heldout, kit.words(5, "heldout"), "system1.jsonl")
    (heldout / "manifest.json").unlink()
    without_reference = kit.sums(1, "heldout")[0].model_copy(update={"id": "open", "reference": None})
    kit.rows_folder(heldout, [*kit.sums(3, "heldout"), without_reference], "system2.jsonl")
    incumbent = tmp_path / "incumbent"
    incumbent.mkdir()
    (incumbent / "incumbent.json").write_text("{}")
    seal(incumbent, "publish.incumbent")
    return {"heldout": heldout, "after_sft": adapter, "published": tuned, "incumbent": incumbent}


def settings(kit, **evaluate):
    return {
        "model": kit.TINY,
        "prompts": {},
        "evaluate": {"batch_size": 4, "max_new_tokens": 6, **evaluate},
        "seed": 0,
    }


def read(out):
    folder = out / "evaluation"
    return list(read_records(folder / "answers.jsonl", Answer)), json.loads((folder / "summary.json").read_text())


def test_three_models_answer_the_same_rows(kit, inputs, tmp_path) -> None:
    metrics, out = kit.run("evaluate", tmp_path, settings(kit), inputs)
    answers, summary = read(out)
    by_model = {
        model: [(a.system, a.example_id) for a in answers if a.model == model]
        for model in ("base", "after_sft", "after_rl")
    }
    assert len(by_model["base"]) == 9
    assert by_model["base"] == by_model["after_sft"] == by_model["after_rl"]
    for model, figures in summary.items():
        if model in by_model:
            assert (figures["system1_rows"], figures["system2_rows"]) == (5, 4)
            assert figures["system1_interval"][0] <= figures["system1_accuracy"] <= figures["system1_interval"][1]
    assert [(a.strict, a.lenient) for a in answers if a.example_id == "open"] == [(None, None)] * 3
    assert summary["changes"]["system2"]["base_to_after_rl"]["rows"] == 3
    # The residual start leaves the function as it was; the tuned adapter does not.
    assert summary["after_sft"]["system2_loss"] == pytest.approx(summary["base"]["system2_loss"], abs=1e-5)
    assert abs(summary["after_rl"]["system2_loss"] - summary["base"]["system2_loss"]) > 0.02
    assert set(summary["changes"]["system1"]) == {"base_to_after_sft", "after_sft_to_after_rl", "base_to_after_rl"}
    assert metrics["after_rl_system2_loss"] == summary["after_rl"]["system2_loss"]
    assert metrics["seconds"] > 0


def test_a_killed_call_goes_on_and_gives_the_same_answers(kit, inputs, tmp_path, monkeypatch) -> None:
    _, whole = kit.run("evaluate", tmp_path / "whole", settings(kit), inputs)
    answer = Answerer.answer
    asked = []

    def killed_at_the_fifth(self, batch):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(self.name)
        return answer(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "answer", killed_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            kit.run("evaluate", tmp_path / "killed", settings(kit), inputs)
    assert asked == ["base"] * 3 + ["after_sft"]
    notes = kit.Notes()
    _, killed = kit.run("evaluate", tmp_path / "killed", settings(kit), inputs, notes)
    assert notes.lines[0] == "going on after 4 batches that were answered before"
    assert read(killed)[0] == read(whole)[0]


def test_the_limit_draws_rows_by_the_seed(kit, inputs, tmp_path) -> None:
    notes = kit.Notes()

    def drawn(seed: int) -> set[str]:
        out = tmp_path / str(seed)
        kit.run("evaluate", out, {**settings(kit, limit=2), "seed": seed}, inputs, notes)
        return {answer.example_id for answer in read(out)[0]}

    assert len(drawn(0)) == 4
    for system, rows in (("system1", 5), ("system2", 4)):
        assert f"evaluate.limit is 2: 2 of {rows} held-out rows of {system} are asked" in notes.lines
    assert len({frozenset(drawn(seed)) for seed in range(1, 4)}) > 1


def test_answers_that_had_not_ended_are_marked_counted_and_reported(kit, inputs, tmp_path) -> None:
    notes = kit.Notes()
    metrics, out = kit.run("evaluate", tmp_path / "out", settings(kit, max_new_tokens=2), inputs, notes)
    answers, summary = read(out)
    for model in ("base", "after_sft", "after_rl"):
        own = [answer for answer in answers if answer.model == model]
        cut = [answer for answer in own if answer.cut_off]
        assert cut
        assert all(answer.tokens == 2 for answer in cut)
        share = sum(answer.system == "system2" for answer in cut) / sum(answer.system == "system2" for answer in own)
        assert metrics[f"{model}_system2_cut_off"] == summary[model]["system2_cut_off"] == share
        line = f"{len(cut)} of {len(own)} answers of {model} cut off: they had not ended after 2 tokens, and most count"
        assert any(line in message for message in notes.lines)
    unjudged, *cut_off = summary["omissions"]
    assert unjudged["what"] == "held-out rows have no reference answer"
    assert [one["remedy"] for one in cut_off] == ["raise evaluate.max_new_tokens"] * 3


def test_rows_that_leave_no_room_for_an_answer_are_counted_and_said(kit, inputs, tmp_path) -> None:
    base = shutil.copytree(model_folder(BASE), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    rows = list(read_records(inputs["heldout"] / "system1.jsonl", Example))
    tokenizer = load_tokenizer(BASE)
    lengths = [len(prompt_ids(tokenizer, prompt_messages(row, "system1", PromptConfig()))) for row in rows]
    config["max_position_embeddings"] = min(lengths) + 6
    (base / "config.json").write_text(json.dumps(config))
    notes = kit.Notes()
    model = {"name": str(base), "dtype": "float32"}
    _, out = kit.run("evaluate", tmp_path, {**settings(kit), "model": model}, inputs, notes)
    (found,) = (one for one in read(out)[1]["omissions"] if "reads at once" in one["what"])
    assert len(rows) - lengths.count(min(lengths)) <= found["count"] < found["total"] == 9
    (said,) = (line for line in notes.lines if "held-out rows do not fit" in line)
    assert "lower evaluate.max_new_tokens" in said


def test_without_a_heldout_row_nothing_can_be_evaluated(kit, inputs, tmp_path) -> None:
    empty = tmp_path / "empty"
    kit.rows_folder(empty, [], "system1.jsonl")
    (empty / "manifest.json").unlink()
    kit.rows_folder(empty, [], "system2.jsonl")
    with pytest.raises(BadInputError, match="no held-out row"):
        kit.run("evaluate", tmp_path / "out", settings(kit), {**inputs, "heldout": empty})


def test_without_lm_eval_benchmarks_say_what_to_install(kit, inputs, tmp_path, monkeypatch) -> None:
    # What an import of a package that is not there comes to.
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in [name for name in sys.modules if name.startswith("lm_eval.")]:
        monkeypatch.delitem(sys.modules, name)
    benchmark = {"task": "gsm8k", "data": gsm8k_file(tmp_path)}
    with pytest.raises(BadInputError, match=r"needs lm_eval, .*pip install '?\S+\[train,eval\]"):
        kit.run("evaluate", tmp_path, settings(kit, limit=1, benchmarks=[benchmark]), inputs)


def gsm8k_file(tmp_path) -> str:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}+1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(4)))
    return str(path)


def test_every_model_is_asked_the_benchmarks_too(kit, inputs, tuned, tmp_path) -> None:
    benchmark = {"task": "gsm8k", "limit": 3, "max_new_tokens": 4, "data": gsm8k_file(tmp_path)}
    production = tmp_path / "production"
    shutil.copytree(tuned, production / "adapter")
    (production / "incumbent.json").write_text("{}")
    seal(production, "publish.incumbent")
    notes = {**inputs, "incumbent": production}
    metrics, out = kit.run("evaluate", tmp_path, settings(kit, limit=1, benchmarks=[benchmark]), notes)
    answers, summary = read(out)
    texts = {
        model: [a.text for a in answers if a.model == model and a.benchmark == "gsm8k"]
        for model in ("base", "after_sft", "after_rl", "incumbent")
    }
    assert {len(found) for found in texts.values()} == {3}
    assert texts["incumbent"] == texts["after_rl"] != texts["base"]
    figures = summary["incumbent"]["benchmarks"]["gsm8k"]
    assert figures["rows"] == 3
    assert figures["interval"][0] <= figures["accuracy"] <= figures["interval"][1]
    assert figures["seconds_per_answer"] > 0
    assert summary["changes"]["gsm8k"]["base_to_after_rl"]["rows"] == 3
    assert metrics["incumbent_gsm8k_tokens_per_answer"] == figures["tokens_per_answer"]
    assert not (out / "evaluation" / "problems.jsonl").exists()


def test_base_and_incumbent_are_not_asked_again_by_a_second_run(kit, inputs, adapter, tuned, tmp_path) -> None:
    """The second run has other adapters; what the first published is now in production."""
    benchmark = {"task": "gsm8k", "limit": 2, "max_new_tokens": 4, "data": gsm8k_file(tmp_path)}
    values = settings(kit, benchmarks=[benchmark])
    store = open_store(tmp_path / "store")
    notes = kit.Notes()
    first, one = kit.run("evaluate", tmp_path / "one", values, inputs, cache=tmp_path / "cache", store=store)
    # After SFT is the adapter as it starts, published is another one.
    assert first["recalled"] == 0
    production = tmp_path / "production"
    shutil.copytree(tuned, production / "adapter")
    (production / "incumbent.json").write_text("{}")
    seal(production, "publish.incumbent")
    moved = changed_adapter(tuned, tmp_path / "moved")
    later = {**inputs, "after_sft": moved, "published": moved, "incumbent": production}
    second, two = kit.run("evaluate", tmp_path / "two", values, later, notes, store=store)
    rows = 9 + 2
    assert second["recalled"] == 3 * rows  # after_rl is the same adapter as after_sft here, and asked once
    assert (
        f"answers known from an earlier run, not asked again: base {rows}, after_rl {rows}, incumbent {rows}"
        in notes.lines
    )
    by_model = [{(a.measure, a.example_id): a for a in read(out)[0] if a.model == "base"} for out in (one, two)]
    assert by_model[0] == by_model[1]
    before, after = read(one)[1], read(two)[1]
    assert before["base"] == after["base"]
    assert {**before["after_rl"], "benchmarks": None} == {**after["incumbent"], "benchmarks": None}
    anew, _ = kit.run("evaluate", tmp_path / "three", settings(kit), inputs, store=store, anew=True)
    assert anew["recalled"] == 0


@pytest.fixture
def known_as(tmp_path, inputs):
    """What a model's answers are kept under where an adapter is among those that are asked."""

    def known(model: ModelConfig, evaluate: EvaluateConfig, adapter=None) -> str:
        values = evaluate_stage.Settings(model=model, prompts=PromptConfig(), evaluate=evaluate, seed=0)
        call = StageCall(values, {}, {}, tmp_path, cache=tmp_path / "cache")
        tokenizer = load_tokenizer(BASE)
        asking = Asking(tokenizer, values.prompts, evaluate)
        with ExitStack() as stack:
            engine = stack.enter_context(open_engine(model, evaluate, tokenizer, [adapter], Silent()))
            return evaluate_stage.remembered_answers(call, asking, engine, stack)(None)._identity

    return known


def test_answers_are_kept_under_the_engine_that_gave_them(known_as, tmp_path) -> None:
    """vLLM takes no prefix, so transformers answers all."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    wanted = EvaluateConfig(backend="vllm", vllm={"max_model_len": 64})
    assert known_as(BASE, wanted, tmp_path) == known_as(BASE, EvaluateConfig())


def test_answers_of_a_model_folder_that_changed_after_the_plan_are_not_kept_under_its_old_digest(
    known_as, tmp_path
) -> None:
    folder = shutil.copytree(model_folder(BASE), tmp_path / "my-model")
    planned = resolve_model(ModelConfig(name=str(folder), dtype="float32"))
    assert known_as(planned, EvaluateConfig())
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"model\.name: the files in .*my-model have changed since"):
        known_as(planned, EvaluateConfig())


def changed_adapter(folder, out):
    """The adapter with one element moved."""
    shutil.copytree(folder, out)
    file = out / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).add_(0.5)
    save_file(tensors, file)
    (out / "manifest.json").unlink()
    seal(out, "rl.adapter")
    return out


def test_every_verdict_follows_the_rule_of_the_run(kit, inputs, tmp_path) -> None:
    """The references are what the base says, with words before it that the rule `text` does not pass over."""
    _, out = kit.run("evaluate", tmp_path / "said", settings(kit), inputs)
    message = {a.example_id: a.text for a in read(out)[0] if a.model == "base" and a.system == "system1"}
    rows = [row.model_copy(update={"reference": f"Answer: {message[row.id]}"}) for row in kit.words(5, "heldout")]
    asked = {**inputs, "heldout": tmp_path / "heldout-marks"}
    kit.rows_folder(asked["heldout"], rows, "system1.jsonl")
    (asked["heldout"] / "manifest.json").unlink()
    kit.rows_folder(asked["heldout"], kit.sums(1, "heldout"), "system2.jsonl")
    for rule, right in (("exact", 1.0), ("text", 0.0), ("math", 1.0)):
        metrics, _ = kit.run("evaluate", tmp_path / rule, {**settings(kit), "answers": rule}, asked)
        assert metrics["base_system1_accuracy"] == right, rule


def own_tasks(folder):
    """A folder with a task of two choices and one whose metric is a figure of all rows together."""
    folder.mkdir()
    rows = [{"q": f"Is {n} even?", "right": n % 2} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
    choice = {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": ["yes", "no"]}
    text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "metric_list": [{"metric": "word_perplexity"}]}
    tasks = {"even": {**choice, "doc_to_target": "right"}, "fluency": {**text, "doc_to_target": "{{q}}"}}
    for name, values in tasks.items():
        (folder / f"{name}.yaml").write_text(task_text(name, {**data, **values}))
    return str(folder)


def task_text(name: str, values: dict) -> str:
    """A task file; JSON is YAML as well."""
    return f"task: {name}\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def test_tasks_of_lm_eval_by_name_are_measures_of_the_gate(kit, inputs, tuned, tmp_path) -> None:
    folder = own_tasks(tmp_path / "tasks")
    asked = [{"task": name, "task_folder": folder} for name in ("even", "fluency")]
    metrics, out = kit.run("evaluate", tmp_path / "run", settings(kit, limit=1, benchmarks=asked), inputs)
    _, summary = read(out)
    even, fluency = (summary["after_rl"]["benchmarks"][name] for name in ("even", "fluency"))
    assert (even["rows"], even["metric"], even["score"]) == (6, "acc,none", even["accuracy"])
    assert metrics["after_rl_even_stderr"] == even["stderr"] > 0
    assert (fluency["accuracy"], fluency["stderr"]) == (None, "N/A")
    assert fluency["scores"]["word_perplexity,none"] == metrics["after_rl_fluency_score"]
    assert summary["base"]["benchmarks"]["fluency"]["score"] != fluency["score"]
    assert set(summary["changes"]) == {"system1", "system2", "even"}
    outcomes = read_outcomes(out / "evaluation", "strict")
    verdict = judge(outcomes, GateConfig(measures=("even",), max_loss=1.0), "base")
    assert verdict.gain.rows == 6
    assert verdict.gain.candidate == even["accuracy"]


def test_a_judge_is_a_measure_of_the_gate_and_is_paid_once(kit, inputs, tmp_path) -> None:
    """It likes answers by their letters, and refuses one answer of the base: that row counts for no model."""
    refused: list[str] = []

    def habit(api, path, headers, body):
        text = json.dumps(body.get("messages"))
        if not refused and "Answer to judge:" in text:
            refused.append(text)
        if text in refused:
            return 200, {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}, {}
        return None

    with serving(opinion=lambda text: sum(map(ord, text)) % 2, habit=habit) as api:
        options = {"endpoint": api.address, "model": MODEL, "openai": {"concurrency": 1}}
        asked = settings(kit, judges={"helpful": {"judge": options, "systems": ["system1"]}})
        metrics, out = kit.run("evaluate", tmp_path / "run", asked, inputs, cache=tmp_path / "cache")
        calls = len(api.asked("Answer to judge"))
        again, _ = kit.run("evaluate", tmp_path / "again", asked, inputs, cache=tmp_path / "cache")
        assert calls <= 3 * 5 < 2 * calls
        assert len(api.asked("Answer to judge")) - calls <= 3  # what was refused is asked again, and nothing else
    _, summary = read(out)
    helpful = summary["after_rl"]["benchmarks"]["helpful"]
    assert (helpful["rows"], helpful["metric"]) == (5, "reward,none")
    assert helpful["score"] == helpful["accuracy"] == metrics["after_rl_helpful_accuracy"]
    assert again["after_rl_helpful_accuracy"] == metrics["after_rl_helpful_accuracy"]
    assert any(one["count"] == 1 and one["what"].endswith("not counted in helpful") for one in summary["omissions"])
    outcomes = read_outcomes(out / "evaluation", "strict")
    verdict = judge(outcomes, GateConfig(measures=("helpful",), max_loss=1.0), "base")
    assert verdict.gain.rows == 4


def test_a_judge_without_rows_to_read_is_refused_before_models_are_asked(kit, inputs, tmp_path) -> None:
    (inputs["heldout"] / "system2.jsonl").write_text("")
    (inputs["heldout"] / "manifest.json").unlink()
    seal(inputs["heldout"], "tally.heldout")
    options = {"endpoint": "http://127.0.0.1:9/v1", "model": MODEL}
    asked = settings(kit, judges={"helpful": {"judge": options, "systems": ["system2"]}})
    with pytest.raises(
        BadInputError, match=r"evaluate\.judges: helpful reads held-out rows of system2, and there is no"
    ):
        kit.run("evaluate", tmp_path / "run", asked, inputs)


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        (
            {"system1": {"judge": {"endpoint": "http://j:1/v1", "model": "m"}}},
            "judges: system1 is the name of another measure",
        ),
        ({"good": {}}, "give a judge or a reward_model"),
        ({"good": {"reward_model": {"name": "m"}}}, "right_from: a reward model's values have no bounds"),
        ({"good": {"judge": {"endpoint": "http://j:1/v1", "model": "m"}, "systems": []}}, "systems: name"),
    ],
)
def test_judges_that_cannot_be_measures(judges, message) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(judges=judges)
