"""Groups and tags of lm-eval's tasks by name, from a folder: put together and counted as lm-eval does it."""

from __future__ import annotations

import json

import pytest
import yaml

from lorapar.config import EvaluateConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.evaluation import benchmark_metrics
from lorapar.evaluation.benchmarks import check_benchmarks, load_benchmark, resolve_benchmarks
from tests.evaluation.benchmarks.named_tasks import (
    TASKS,
    config,
    write_task,
    wrong,
)


def write_rivers(folder) -> None:
    """Two more tasks with a tag: one says it itself, the other by a file that it includes."""
    write_task(folder, "rivers", {**TASKS["animals"], "tag": ["geography", "water"]}, "animals")
    (folder / "shared.yml").write_text("tag: geography\n")
    write_task(folder, "lakes", {**TASKS["capitals"], "metadata": {"version": 4}}, text="include: shared.yml\n")


@pytest.mark.parametrize("even", [False, True])
def test_a_group_is_put_together_as_lm_eval_does_it(folder, asked, even) -> None:
    both = [{"metric": "acc", "weight_by_size": not even}, {"metric": "acc_norm"}]
    world = {"group": "world", "task": ["animals", "inner"], "aggregate_metric_list": both, "metadata": {"version": 7}}
    inner = {"group": "inner", "task": ["endings", {"task": "rivers", "task_alias": "r"}]}
    write_rivers(folder)
    for one in (world, {**inner, "aggregate_metric_list": [{"metric": "acc"}]}):
        (folder / f"{one['group']}.yaml").write_text(yaml.safe_dump(one))
    found = asked(config(folder, "world"))
    assert len(found.answers) == 4 + 5 + 4
    assert {answer.benchmark for answer in found.answers} == {"world"}
    assert {answer.example_id.partition("/")[0] for answer in found.answers} == {"animals", "endings", "rivers"}
    tasks = found.about["tasks"]
    assert [tasks[name]["rows"] for name in ("animals", "endings", "rivers")] == [4, 5, 4]
    each = {name: one["scores"]["acc,none"] for name, one in tasks.items()}
    weights = {name: 1 if even else one["rows"] for name, one in tasks.items()}
    whole = sum(each[name] * weights[name] for name in each) / sum(weights.values())
    assert found.about["score"] == pytest.approx(whole)
    assert (found.about["metric"], found.about["version"]) == ("acc,none", "7")
    assert found.about["stderr"] > 0
    assert found.about["groups"]["inner"]["acc,none"] == pytest.approx((5 * each["endings"] + 4 * each["rivers"]) / 9)
    assert json.loads(json.dumps(found.about)) == found.about


def test_a_group_changes_its_tasks_and_finds_those_of_lm_eval_too(folder, monkeypatch) -> None:
    world = {"group": "world", "task": [{"task": "capitals", "num_fewshot": 2}, "animals"], "description": "Say. "}
    (folder / "world.yaml").write_text(yaml.safe_dump(world))
    capitals, animals = load_benchmark(config(folder, "world"), 0).tasks
    assert (capitals.task.config.num_fewshot, animals.task.config.num_fewshot) == (2, None)
    assert capitals.task.config.description == animals.task.config.description == "Say. "
    world["task"] = ["arc_easy", "capitals"]
    (folder / "world.yaml").write_text(yaml.safe_dump(world))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("silent")))
    with pytest.raises(UnreachableError, match=r"world: arc_easy: its data set allenai/ai2_arc cannot be read here"):
        load_benchmark(config(folder, "world"), 0)


def test_a_tag_stands_for_its_tasks_and_has_no_figure_of_its_own(folder, asked) -> None:
    write_rivers(folder)
    found = asked(config(folder, "geography", limit=3))
    assert set(found.about["tasks"]) == {"lakes", "rivers"}
    assert found.about["tasks"]["lakes"]["version"] == "4"
    assert found.about["score"] is None
    assert len(found.answers) == 3
    assert benchmark_metrics(found.answers, 1.0, 0.95)["accuracy"] is not None


def test_a_limit_is_shared_out_by_the_rows_of_the_tasks(folder) -> None:
    write_rivers(folder)
    (folder / "world.yaml").write_text("group: world\ntask: [capitals, animals, rivers]\n")
    drawn = load_benchmark(config(folder, "world", limit=6), 0)
    assert sorted(len(task.asked) for task in drawn.tasks) == [2, 2, 2]
    assert len(list(drawn.questions())) == 6
    assert "limit is 2, and it has 3 tasks" in wrong(folder, "world", limit=2)
    assert load_benchmark(config(folder, "world", limit=50), 0).remarks[1].endswith("13 rows: all are asked")
    assert drawn.remarks[1] == "world: limit is 6, so 6 of its 13 rows are asked"
    names = [task.name for task in drawn.tasks]
    assert drawn.remarks[0] == f"world: 3 tasks, 13 rows: {', '.join(names)}"


def test_a_gate_compares_the_rows_of_a_group_that_can_be_judged(folder) -> None:
    listed = "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    (folder / "world.yaml").write_text(f"group: world\ntask: [animals, endings]\n{listed}")
    settings = EvaluateConfig(benchmarks=(config(folder, "world"),))
    (found,) = check_benchmarks(settings, 0, ("world",))
    assert found.remarks[-1].endswith("the gate compares row by row, and weighs all rows equally")
    (resolved,) = resolve_benchmarks(settings).benchmarks
    assert load_benchmark(resolved, 0).digest == resolved.digest
    (folder / "world.yaml").write_text(f"group: world\ntask: [animals, texts]\n{listed}")
    assert "world: texts: the gate names it" in wrong(folder, "world", judged=("world",))
    with pytest.raises(BadInputError, match="the rows of world are not those that plan saw"):
        load_benchmark(resolved, 0)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("task: [capitals, animal]", "group world names animal, which is not a task (did you mean 'animals'?)"),
        ("task: [world]", "group world holds itself"),
        ("task: []", "group world names no task; list them under `task:`"),
        ("task: [capitals, [animals]]", "a member of group world is ['animals']; give a task's name"),
        ("task: [capitals, broken]", "broken: row 1: 'city' is undefined"),
        ("task: [animals]\naggregate_metric_list: [{metric: acc, weight: 2}]", "unexpected keyword argument 'weight'"),
        ("task: [animals]\nprocess_docs: !function own.rows", "world.yaml runs Python code from outside"),
    ],
)
def test_what_is_wrong_in_a_group_is_reported_before_anything_is_trained(folder, written, message) -> None:
    write_task(folder, "broken", {**TASKS["capitals"], "doc_to_text": "{{city}}?"})
    (folder / "world.yaml").write_text(f"group: world\n{written}\n")
    assert message in wrong(folder, "world")
