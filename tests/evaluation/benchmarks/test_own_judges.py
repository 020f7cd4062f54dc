"""Tasks of lm-eval that judge answers by code of their own: tried before anything is trained."""

from __future__ import annotations

import json

import pytest
import yaml

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import check_benchmarks, load_benchmark
from lorapar.evaluation.benchmarks.squad_metrics import compute_exact, compute_f1

ROWS = [{"country": f"land {n}", "capital": f"the town {n}", "many": n % 2} for n in range(3)]
JUDGE = """
def judged(doc, results):
    said, right = set(results[0].split()), set(doc["capital"].split())
    return {"overlap": len(said & right) / len(said | right), "points": 0, "named": int(doc["capital"] in results[0])}
"""
CLASS = """
from lm_eval.api.task import ConfigurableTask

class Own(ConfigurableTask):
    def __init__(self, config=None):
        fields = ("task", "dataset_path", "dataset_kwargs", "test_split", "doc_to_text", "doc_to_target")
        super().__init__(config={name: config[name] for name in fields})

    def process_results(self, doc, results):
        return {"named": doc["capital"] in results[0]}

    def aggregation(self):
        return {"named": AGGREGATION}
"""


@pytest.fixture
def task(tmp_path):
    """Writes a task file and its code; returns the settings that ask it."""

    def write(code: str, **values) -> BenchmarkConfig:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (tmp_path / "own.py").write_text(code)
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
        asks = {"doc_to_text": "Capital of {{country}}?", "doc_to_target": "{{capital}}"}
        tags = {name: value for name, value in values.items() if str(value).startswith("!function")}
        plain = {name: value for name, value in values.items() if name not in tags}
        text = yaml.safe_dump({"task": "own", **data, **asks, **plain})
        (tmp_path / "own.yaml").write_text(text + "".join(f"{name}: {value}\n" for name, value in tags.items()))
        return BenchmarkConfig(task="own", task_folder=str(tmp_path), trust_code=True)

    return write


def metrics(*names: str) -> list[dict]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def refusal(config: BenchmarkConfig, judged=()) -> str:
    with pytest.raises(BadInputError) as refused:
        check_benchmarks(EvaluateConfig(benchmarks=(config,)), 0, judged)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_metric_that_judges_rows_is_the_first_that_says_yes_or_no_of_right_and_wrong_answers(task) -> None:
    values = {"process_results": "!function own.judged", "metric_list": metrics("overlap", "points", "named")}
    config = task(JUDGE, **values)
    assert load_benchmark(config, 0).metric == ("named", "none")
    assert "do not say of each row whether it is right" in refusal(
        config.model_copy(update={"metric": "overlap"}), ["own"]
    )


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["bleu_max", "bleu_acc"], "bleu_acc"),  # as TruthfulQA's, whose doc_to_target is empty
        (["em"], "em"),
        (["eqbench", "percent_parseable"], None),
        (["partial_accuracy"], None),
        (["points", "unseen_acc"], None),  # no value at all is no verdict
    ],
)
def test_a_metric_that_is_0_of_every_answer_tried_counts_only_by_its_name(task, names, chosen) -> None:
    values = {name: 0 for name in names if not name.startswith("unseen")}
    code = f"def judged(doc, results):\n    return {values}\n"
    config = task(code, process_results="!function own.judged", metric_list=metrics(*names))
    found = load_benchmark(config, 0)
    assert found.metric == (chosen and (chosen, "none"))
    zeros = f"own: its rows are not told right from wrong: {', '.join(values)} gave 0 to every answer tried"
    assert [one.startswith(zeros) for one in found.remarks] == ([] if chosen else [True])


def test_a_metric_that_a_person_names_goes_the_same_way(task) -> None:
    code = "def judged(doc, results):\n    return {'points': 0, 'acc': 0}\n"
    config = task(code, process_results="!function own.judged", metric_list=metrics("points", "acc"))
    assert load_benchmark(config.model_copy(update={"metric": "points"}), 0).metric is None


@pytest.mark.parametrize(
    ("fails_on", "told"),
    [
        ("True", "its answers cannot be judged here: KeyError: 'NO_SUCH_KEY'; make that available"),
        ("not results[0]", None),  # no model may ever answer nothing
    ],
)
def test_code_that_fails_on_every_answer_is_told_before_training(task, fails_on, told) -> None:
    """As RealToxicityPrompts, which asks a service by a key from the environment."""
    code = f"""
import os

def judged(doc, results):
    key = os.environ["NO_SUCH_KEY"] if {fails_on} else ""
    return {{"named": doc["capital"] in results[0]}}
"""
    config = task(code, process_results="!function own.judged", metric_list=metrics("named"))
    if told:
        assert told in refusal(config)
    else:
        assert load_benchmark(config, 0).metric is not None


def test_requests_that_a_class_cannot_make_are_a_refusal_not_a_traceback(task) -> None:
    code = (
        CLASS.replace("AGGREGATION", "sum")
        + """
    def construct_requests(self, doc, ctx, **kwargs):
        return doc["no such column"]
"""
    )
    assert "its answers cannot be judged here: KeyError" in refusal(task(code, **{"class": "!function own.Own"}))


def test_a_task_that_is_a_class_is_made_with_its_file_and_takes_no_overrides(task) -> None:
    config = task(CLASS.replace("AGGREGATION", "sum"), **{"class": "!function own.Own"})
    found = load_benchmark(config, 0)
    assert found.metric == ("named", "none")
    assert found.task.config.task == "own"
    changed = config.model_copy(update={"overrides": {"doc_to_text": "country"}})
    assert "is a Python class, which reads no fields of a task file; leave out overrides" in refusal(changed)


def test_what_judging_needs_and_is_not_here_is_told_before_training(task) -> None:
    """As SQuAD 2's metric, which its class loads from the hub when all is answered."""
    code = CLASS.replace("AGGREGATION", "lambda items: open('/none/metric.py')")
    config = task(code, **{"class": "!function own.Own"})
    assert "its answers cannot be judged here: FileNotFoundError" in refusal(config)


@pytest.mark.parametrize(
    ("package", "install"), [("langdetect", r"'lm_eval[ifeval]'"), ("no_such_package", "no_such_package")]
)
def test_a_package_that_code_needs_is_named_with_what_installs_it(task, package, install) -> None:
    code = f"raise ModuleNotFoundError('No module', name='{package}')\n"
    message = refusal(task(code, process_results="!function own.judged", metric_list=metrics("acc")))
    assert f"needs the Python package {package}, which is not installed here: pip install {install}" in message


def test_squads_metrics_are_there_for_tasks_that_import_them_from_transformers(task) -> None:
    code = """
import transformers.data.metrics.squad_metrics as squad_metrics
from transformers.data.metrics.squad_metrics import compute_f1

def judged(doc, results):
    return {"em": squad_metrics.compute_exact(doc["capital"], results[0]), "f1": compute_f1(doc["capital"], results[0])}
"""
    config = task(code, process_results="!function own.judged", metric_list=metrics("f1", "em"))
    assert load_benchmark(config, 0).metric == ("em", "none")
    assert compute_exact("The Town, 1!", "town 1") == 1
    assert compute_f1("the red town", "red house") == pytest.approx(0.5)
    assert (compute_f1("the", ""), compute_f1("the", "town"), compute_f1("cat", "dog")) == (1.0, 0.0, 0.0)


def test_a_right_answer_may_be_a_number_of_numpys(task) -> None:
    """As in ToxiGen, whose function rounds."""
    code = "import numpy\n\ndef right(doc):\n    return numpy.int32(doc['many'])\n"
    values = {"output_type": "multiple_choice", "doc_to_choice": ["no", "yes"], "metric_list": metrics("acc")}
    found = load_benchmark(task(code, doc_to_target="!function own.right", **values), 0)
    assert found.metric == ("acc", "none")
    assert found.requests == 6
