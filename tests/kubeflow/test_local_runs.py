"""Whole runs of the shipped package by kfp's own local orchestrator: every wire, condition and loop of it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.reporting import find_run
from lorapar.kubeflow.task_outputs import FIGURES
from lorapar.kubeflow.tasks import task_of
from lorapar.registry import PRODUCTION, Registry
from lorapar.store import open_store
from tests.kubeflow.local_runs import LocalRuns, Started
from tests.local.test_systems import NAMES, write_settings

OVERRIDES = """
sft.max_steps=8
sft.learning_rate=2e-2
rl.max_steps=1
data.task_mix={system1_train: 24, system1_heldout: 16, system2_train: 8, system2_heldout: 4}
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner")
FORM: dict[str, Any] = {"config": "preset:tiny", "overrides": OVERRIDES, "adapter_name": "tiny", "parallelism": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> LocalRuns:
    """A store in which one run has ended."""
    found = LocalRuns(tmp_path_factory.mktemp("runs"))
    found.first = found.run(**FORM)
    return found


def outcomes(root: Path) -> list[dict[str, Any]]:
    paths = sorted(root.glob("store/runs/*/outcome.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def stages(started: list[Started]) -> list[str]:
    return sorted(task.stage for task in started)


def test_every_node_has_run_and_left_a_record(runs) -> None:
    twice = ["score", "score", "vote", "vote", "vote"]
    once = ["plan", "init", "partition", "sft", "rl", "publish", "evaluate", "gate", "report"]
    assert stages(runs.first) == sorted([*once, *twice])
    first = outcomes(runs.root)[0]
    assert first["missing"] == []
    assert first["errors"] == {}


def test_the_figures_that_kubeflow_shows_are_figures_of_those_stages(runs) -> None:
    """Only a run whose adapter is promoted has `promoted`."""
    known: dict[str, set[str]] = {}
    for path in runs.root.glob("store/records/*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        known.setdefault(task_of(record["node"]).name, set()).update(record["metrics"])
    for task, names in FIGURES.items():
        assert set(names) - known[task] <= {"promoted"}, task


def test_a_second_run_with_nothing_changed_asks_the_models_nothing(runs, monkeypatch) -> None:
    """Kubeflow finds every cached task by its parameters; and if it has forgotten them, the store has not.

    Only tasks that look at something outside would run, and none of them asks a model for votes or answers.
    """

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model is asked again")

    for place in ("lorapar.stages.vote.run", "lorapar.stages.evaluate.run", "lorapar.stages.rl.run"):
        monkeypatch.setattr(place, never)
    again = runs.run(**FORM)
    known = {task.key for task in runs.first}
    assert {task.stage for task in again if task.key not in known} == {"plan", "publish", "gate", "report"}
    assert outcomes(runs.root)[-1]["missing"] == []


def test_a_pod_that_dies_is_reported_and_the_next_run_goes_on_from_what_there_is(runs) -> None:
    changed = {**FORM, "overrides": OVERRIDES + "evaluate.max_new_tokens=4\n"}
    runs.failing = lambda task: task.stage == "evaluate"
    failed = runs.run(**changed)
    runs.failing = lambda _: False
    assert [task.stage for task in failed][-1] == "report"
    assert "gate" not in {task.stage for task in failed}
    last = outcomes(runs.root)[-1]
    assert last["succeeded"] is False
    assert last["missing"][0] == "evaluate"
    records = {info.key for info in open_store(runs.store).list("records/")}
    runs.run(**changed)
    assert outcomes(runs.root)[-1]["missing"] == []
    new = {info.key for info in open_store(runs.store).list("records/")} - records
    made = {json.loads(open_store(runs.store).read(key))["stage"] for key in new}
    assert "evaluate" in made
    assert made <= {"evaluate", "execute", "gate", "promote"}, "publish finds the version that is there"


def test_a_recurring_run_with_nothing_changed_ends_after_plan(runs) -> None:
    """Its condition is the package's own; a production that has moved is a change as well."""
    recurring = {**FORM, "overrides": OVERRIDES + "if_changed=true\n"}
    runs.run(**FORM)
    assert stages(runs.run(**recurring)) == ["plan", "report"]
    last = outcomes(runs.root)[-1]
    assert (last["succeeded"], last["missing"], last["errors"]) == (True, [], {})
    assert last["unchanged"] == outcomes(runs.root)[-2]["run"]
    alias = runs.root / "store" / "registry" / "adapters" / "tiny" / "aliases" / "production.json"
    if alias.exists():
        alias.unlink()
    else:
        Registry(open_store(f"{runs.store}/registry")).set_alias("tiny", PRODUCTION, 1)
    assert "publish" in stages(runs.run(**recurring))


def test_systems_of_your_own_go_through_the_same_pipeline(runs, tmp_path) -> None:
    """The graph's second place carries two systems here, whose phases are trained by both training tasks."""
    config, edits = write_settings(tmp_path)
    started = runs.run(config=config.read_text(), overrides=f"edits.source={edits}\n")
    assert stages(started).count("score") == 2
    last = outcomes(runs.root)[-1]
    assert (last["missing"], last["errors"]) == ([], {})
    records = find_run(Ledger(open_store(runs.store), last["run"])).records
    trained = {node: records[node][0].metrics for node in ("sft", "rl")}
    steps = trained["sft"]["1_recall_sft_steps"], trained["sft"]["2_naming_sft_steps"]
    assert steps == (1, 2), "the second phase has settings of its own"
    assert trained["rl"]["steps"] == 2
    shown = sorted(runs.root.glob("outputs/*/evaluate/metrics"), key=lambda path: path.stat().st_mtime)[-1]
    figures = json.loads(shown.read_text())
    assert set(figures) == {f"{model}_{name}_accuracy" for model in ("base", "after_rl") for name in NAMES}
