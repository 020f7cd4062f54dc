"""What Kubeflow adds to a run: the shipped package keeps to few pods in a row and a small Workflow."""

from __future__ import annotations

import copy
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorapar.config import dump_changed, load_config
from lorapar.kubeflow import submission
from lorapar.kubeflow.overhead import (
    GROUP_PODS,
    LOOP_PODS,
    NODE_BYTES,
    TASK_PODS,
    longest_path_pods,
    waiting_seconds,
    workflow_bytes,
)
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.parameters import pipeline_parameters
from lorapar.kubeflow.submission import INLINE_LIMIT_BYTES, by_address
from lorapar.kubeflow.tasks import TASKS
from lorapar.store import ObjectStore, open_store
from tests.kubeflow.argo_double import Argo, fate
from tests.kubeflow.followed import ALL

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubeflow.md"
PLATFORM = DOCS.parent / "platform" / "install.md"
MOST_PODS = 28
MOST_BYTES = 600_000
"""Below Argo's 1 MiB, from which on Kubeflow's pages stand still; a tiny run's Workflow once had 1.5 MB."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    """What stands for the bucket."""
    found = open_store(tmp_path)
    monkeypatch.setattr(submission, "open_store", lambda address: found)
    return found


@pytest.fixture(scope="module")
def package() -> tuple[dict[str, Any], dict[str, Any]]:
    found = build_package({}, None)
    return found.spec, found.platform


def container(*needs: str) -> dict[str, Any]:
    return {"componentRef": {"name": "comp-task"}, "dependentTasks": list(needs), "taskInfo": {"name": "task"}}


def group(name: str, *needs: str, loop: bool = False) -> dict[str, Any]:
    found = {"componentRef": {"name": name}, "dependentTasks": list(needs), "taskInfo": {"name": name}}
    return {**found, "parameterIterator": {}} if loop else found


def test_pods_in_a_row_are_counted_by_hand() -> None:
    """A root with two tasks side by side, then a loop of two tasks in a row.

    Kubeflow 2.17.0, backend/src/v2/compiler/argocompiler/dag.go: task, iteratorTask and iterationItemTask.
    """
    loop = {"dag": {"tasks": {"c": container(), "d": container("c")}}}
    root = {"dag": {"tasks": {"a": container(), "b": container(), "loop": group("comp-loop", "a", loop=True)}}}
    spec = {"root": root, "components": {"comp-task": {"executorLabel": "e"}, "comp-loop": loop}}
    assert longest_path_pods(spec) == 1 + 2 + (2 + 2 + 2)
    spec["root"]["dag"]["tasks"]["loop"] = group("comp-loop", "a")
    assert longest_path_pods(spec) == 1 + 2 + (1 + 2 + 2)
    spec["root"]["dag"]["tasks"]["loop"] = group("comp-loop")
    assert longest_path_pods(spec) == 1 + (1 + 2 + 2)


def test_the_longest_path_of_the_shipped_package(package) -> None:
    """What the docs add up: root, exit handler and condition; eleven tasks; what the loop adds to one of them."""
    pods = longest_path_pods(package[0])
    in_a_row = len(TASKS) - len({"init", "score-system2"})
    assert pods == 3 * GROUP_PODS + in_a_row * TASK_PODS + LOOP_PODS
    assert pods <= MOST_PODS


def test_the_docs_say_how_long_a_run_waits(package) -> None:
    pods = longest_path_pods(package[0])
    for page in (DOCS, PLATFORM):
        text = page.read_text(encoding="utf-8")
        (said,) = re.findall(r"(\d+) pods one after the other", text)
        assert int(said) == pods
        assert "DEFAULT_REQUEUE_TIME" in text
    assert f"{waiting_seconds(pods) / 60:.1f} minutes" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("rows", [0, 500])
def test_the_workflow_of_a_small_run_stays_small_however_long_its_settings_are(package, lanes, rows, store) -> None:
    """`submit` puts them into the store, so that their address is all that travels."""
    settings = load_config(preset="tiny", overrides=[f"prompts.system1={'word ' * 200 * rows}"] if rows else [])
    values, _ = by_address(pipeline_parameters(settings, [], "s3://mlpipeline/lorapar"), "s3://mlpipeline/lorapar")
    assert store.read(values["config"].removeprefix("s3://mlpipeline/lorapar/")).decode() == dump_changed(settings)
    found = workflow_bytes(*package, lanes, values["config"])
    assert sum(found.values()) <= MOST_BYTES, found


def test_settings_that_travel_as_they_are_stand_nine_times_in_the_workflow(package) -> None:
    """Where `submit` may not write to the store, or somebody pastes them into Kubeflow's form."""
    short, long = (sum(workflow_bytes(*package, 2, "x" * length).values()) for length in (0, 1000))
    assert long - short == 9 * 1000


@pytest.mark.parametrize(("lanes", "config"), [(8, ""), (4, "x" * INLINE_LIMIT_BYTES)])
def test_many_teachers_side_by_side_or_settings_inside_still_leave_the_node_statuses_unpacked(
    package, lanes, config
) -> None:
    """Argo packs them where the whole Workflow, spec included, is above 1 MiB; Kubeflow reads only plain ones.

    Argo 4.0.5, workflow/packer/packer.go: getSize, DefaultMaxWorkflowSize.
    """
    assert sum(workflow_bytes(*package, lanes, config).values()) < 1 << 20


def test_the_model_gives_what_was_seen_of_an_earlier_package() -> None:
    """Commit a0f5ba6 on Kubeflow 2.17.0: 43 pods in a row; a Workflow of 1.5 MB at the end, of them 150 kB of spec.

    Some 0.2 MB of it were the settings, which each of 19 tasks was given and which no package holds.
    """
    packed = Path(__file__).with_name("earlier_package.yaml.gz").read_bytes()
    spec, platform = yaml.safe_load_all(gzip.decompress(packed))
    assert longest_path_pods(spec) == 43
    found = workflow_bytes(spec, platform, 2)
    assert found["spec"] == pytest.approx(150_000, rel=0.01)
    assert 1_250_000 < sum(found.values()) < 1_350_000


def test_the_model_counts_what_a_task_is_given(package) -> None:
    """One more digest for one task: in its spec, in what its driver is given, and in every copy of its patch."""
    before = workflow_bytes(*package, 2)
    spec, platform = copy.deepcopy(package)
    spec["components"]["comp-gate"]["inputDefinitions"]["parameters"]["one_more_digest"] = {"parameterType": "STRING"}
    after = workflow_bytes(spec, platform, 2)
    assert after["patches"] - before["patches"] > 6 * 64
    assert after["inputs"] > before["inputs"]
    assert after["spec"] > before["spec"]
    assert after["nodes"] == before["nodes"]


def test_constants_of_the_model_are_of_the_size_of_what_they_stand_for(package) -> None:
    """They were fitted to a run on a cluster (2.17.0), whose spec had 150 kB with 19 tasks; here are 13."""
    found, nodes = workflow_bytes(*package, 1), Argo(package[0], {name: fate("SUCCEEDED") for name in ALL}).nodes
    assert 100_000 < found["spec"] < 150_000
    names_and_times = sum(len(json.dumps(node)) for node in nodes.values()) / len(nodes)
    assert names_and_times < NODE_BYTES < 2 * names_and_times


def test_the_compiled_file_is_no_larger_than_what_the_form_shows(package) -> None:
    assert len(yaml.safe_dump(package[0])) < 40_000
