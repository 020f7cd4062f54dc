"""Measures beside held-out accuracy, run for real: a reward model, and subjects of MMLU as lm-eval groups them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from lorapar.basemodel import load_tokenizer
from lorapar.config import EvaluateConfig, GateConfig, ModelConfig
from lorapar.errors import BadInputError
from lorapar.evaluation import judge, read_outcomes
from lorapar.evaluation.benchmarks import check_benchmarks
from lorapar.records import Answer, read_records
from lorapar.store import seal

SUBJECTS = {"anatomy": 3, "astronomy": 5, "world_religions": 4}
"""Rows of each subject in `test`; each has two worked examples in `dev`."""


@pytest.fixture(scope="module")
def inputs(kit, adapter, tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    tuned, heldout, incumbent = place / "tuned", place / "heldout", place / "incumbent"
    tuned.mkdir()
    for file in adapter.iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    (tuned / "manifest.json").unlink()
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(tuned / "adapter_model.safetensors")
    moved = {name: one + 0.3 * torch.randn(one.shape, generator=generator) for name, one in tensors.items()}
    save_file(moved, tuned / "adapter_model.safetensors", {"format": "pt"})
    seal(tuned, "rl.adapter")
    kit.rows_folder(heldout, kit.words(5, "heldout"), "system1.jsonl")
    (heldout / "manifest.json").unlink()
    kit.rows_folder(
        heldout, [row.model_copy(update={"reference": None}) for row in kit.sums(4, "heldout")], "system2.jsonl"
    )
    incumbent.mkdir()
    (incumbent / "incumbent.json").write_text("{}")
    seal(incumbent, "publish.incumbent")
    return {"heldout": heldout, "after_sft": adapter, "published": tuned, "incumbent": incumbent}


def evaluated(kit, folder, inputs, **evaluate):
    settings = {"batch_size": 4, "max_new_tokens": 6, **evaluate}
    whole = {"model": kit.TINY, "prompts": {}, "evaluate": settings, "seed": 0}
    metrics, out = kit.run("evaluate", folder, whole, inputs)
    answers = list(read_records(out / "evaluation" / "answers.jsonl", Answer))
    return metrics, answers, json.loads((out / "evaluation" / "summary.json").read_text()), out / "evaluation"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """A random sequence classifier of one output, whose values spread around 0."""
    folder = tmp_path_factory.mktemp("reward")
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny", dtype="float32"))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **small))
        torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_is_a_measure_of_the_gate(kit, inputs, reward_model, tmp_path) -> None:
    """What it says of every held-out answer is what transformers says of that text; the gate goes by `right_from`."""
    measure = {"reward_model": {"name": str(reward_model), "batch_size": 3}, "right_from": 0.1, "systems": ["system2"]}
    metrics, answers, summary, folder = evaluated(kit, tmp_path, inputs, judges={"kind": measure})
    model = LlamaForSequenceClassification.from_pretrained(reward_model).eval()
    model.config.pad_token_id = None
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny", dtype="float32"))
    questions = {row.id: row.question for row in kit.sums(4, "heldout")}
    verdicts = set()
    for contestant in ("base", "after_sft", "after_rl"):
        own = {one.example_id: one.text for one in answers if (one.model, one.system) == (contestant, "system2")}
        values = {}
        for row, text in own.items():
            turns = [{"role": "user", "content": questions[row]}, {"role": "assistant", "content": text}]
            ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                values[row] = float(model(torch.tensor([ids])).logits[0, 0])
        said = {one.example_id: one.strict for one in answers if (one.model, one.benchmark) == (contestant, "kind")}
        assert said == {row: value >= 0.1 for row, value in values.items()}
        verdicts |= set(said.values())
        figures = summary[contestant]["benchmarks"]["kind"]
        assert (figures["rows"], figures["metric"]) == (4, "reward,none")
        assert figures["score"] == pytest.approx(sum(values.values()) / 4, abs=1e-4)
        assert figures["stderr"] > 0
        assert metrics[f"{contestant}_kind_accuracy"] == sum(said.values()) / 4
    assert verdicts == {True, False}, "the test has to see both"
    verdict = judge(read_outcomes(folder, "strict"), GateConfig(measures=("kind",), max_loss=1.0), "base")
    assert verdict.gain.rows == 4


@pytest.fixture(scope="module")
def mmlu(tmp_path_factory):
    """Some subjects laid out as cais/mmlu is: a configuration each, worked examples in `dev`."""
    folder = tmp_path_factory.mktemp("mmlu")
    configs = []
    for subject, count in SUBJECTS.items():
        (folder / subject).mkdir()
        for split, rows in (("dev", 2), ("test", count)):
            found = [
                {"question": f"{subject} {split} {n}?", "subject": subject, "choices": list("wxyz"), "answer": n % 4}
                for n in range(rows)
            ]
            (folder / subject / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        files = [{"split": split, "path": f"{subject}/{split}.jsonl"} for split in ("dev", "test")]
        configs.append({"config_name": subject, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A group like lm-eval's `mmlu`, of its own tasks, with a group inside."""
    folder = tmp_path_factory.mktemp("tasks")
    listed = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}], "metadata": {"version": 2}}
    stem = {"group": "few_stem", "task": ["mmlu_anatomy", "mmlu_astronomy"], **listed}
    whole = {"group": "few", "task": ["few_stem", "mmlu_world_religions"], **listed}
    for one in (stem, whole):
        (folder / f"{one['group']}.yaml").write_text(yaml.safe_dump(one))
    return folder


def benchmark(mmlu, groups, **changes):
    return {"task": "few", "task_folder": str(groups), "overrides": {"dataset_path": str(mmlu)}, **changes}


@pytest.fixture(scope="module")
def few(kit, inputs, mmlu, groups, tmp_path_factory):
    """What an evaluation with this group comes to."""
    folder = tmp_path_factory.mktemp("few")
    return evaluated(kit, folder, inputs, limit=1, benchmarks=[benchmark(mmlu, groups, few_shot=2)])


def test_subjects_of_mmlu_are_asked_offline_as_lm_eval_groups_them(few) -> None:
    metrics, answers, summary, folder = few
    for contestant in ("base", "after_sft", "after_rl"):
        figures = summary[contestant]["benchmarks"]["few"]
        assert (figures["rows"], figures["metric"], figures["version"]) == (12, "acc,none", "2")
        tasks = {name.removeprefix("mmlu_"): one for name, one in figures["tasks"].items()}
        assert {name: one["rows"] for name, one in tasks.items()} == SUBJECTS
        assert all(one["version"] == "1.0" for one in tasks.values())
        right = {name: one["scores"]["acc,none"] * SUBJECTS[name] for name, one in tasks.items()}
        assert figures["score"] == figures["accuracy"] == pytest.approx(sum(right.values()) / 12)
        assert figures["groups"]["few_stem"]["acc,none"] == pytest.approx((right["anatomy"] + right["astronomy"]) / 8)
        assert metrics[f"{contestant}_few_stderr"] == figures["stderr"]
        own = [one for one in answers if (one.model, one.benchmark) == (contestant, "few")]
        assert sum(bool(one.strict) for one in own) == pytest.approx(sum(right.values()))
        assert {one.text for one in own} <= set("ABCD")
    verdict = judge(read_outcomes(folder, "strict"), GateConfig(measures=("few",), max_loss=1.0), "base")
    assert verdict.gain.rows == 12


def test_figures_of_mmlu_are_those_of_lm_eval_itself(few, mmlu, tmp_path) -> None:
    """lm-eval alone, with its own model class, on the same base and the same task files."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from lorapar.basemodel import load_model

    base = ModelConfig(name="builtin:tiny", dtype="float32")
    wrapped = HFLM(pretrained=load_model(base), tokenizer=load_tokenizer(base), batch_size=4, max_length=512)
    own = tmp_path / "own"
    own.mkdir()
    for subject in SUBJECTS:
        (own / f"{subject}.yaml").write_text(
            yaml.safe_dump(
                {"task": subject, "include": f"{template_folder()}/mmlu_{subject}.yaml", "dataset_path": str(mmlu)}
            )
        )
    manager = TaskManager(include_path=str(own), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=wrapped, tasks=list(SUBJECTS), num_fewshot=2, task_manager=manager, bootstrap_iters=0, log_samples=False
    )
    tasks = few[2]["base"]["benchmarks"]["few"]["tasks"]
    for subject in SUBJECTS:
        assert tasks[f"mmlu_{subject}"]["scores"]["acc,none"] == found["results"][subject]["acc,none"], subject


def template_folder():
    from pathlib import Path

    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"


def test_what_is_wrong_in_local_subjects_is_found_before_anything_is_trained(mmlu, groups, tmp_path) -> None:
    def said(**changes) -> str:
        settings = EvaluateConfig.model_validate({"benchmarks": [benchmark(mmlu, groups, **changes)]})
        with pytest.raises(BadInputError) as refused:
            check_benchmarks(settings, 0, ("few",))
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "few: mmlu_anatomy: it has fewer worked examples than few_shot 3" in said(few_shot=3)
    assert "nowhere' is neither a folder here nor a hub name" in said(overrides={"dataset_path": f"{tmp_path}/nowhere"})
