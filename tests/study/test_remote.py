"""Cells of a study as runs in Kubeflow: the API is a double, what it starts is the real pipeline in this process."""

from __future__ import annotations

import csv
import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lorapar.cli import app
from lorapar.cli.kubeflow import cluster_of
from lorapar.config import load_config
from lorapar.config.study import parse_study
from lorapar.errors import BadInputError, LoraparError
from lorapar.kubeflow import follow, submission
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.server import Server, Start, Where
from lorapar.network import OWN_VARIABLE, SHARED_VARIABLES
from lorapar.store import open_store
from lorapar.study import remote
from lorapar.study.cells import cells_of
from tests.kubeflow.api_double import Double, Frame
from tests.kubeflow.argo_double import Fate
from tests.kubeflow.local_runs import LocalRuns

STORE = "s3://bucket/lorapar"
STUDY = """
name: two
title: How many elements?
seeds: [0]
cells:
- {name: many, settings: {partition.theta: 0.9}}
- {name: few, settings: {partition.theta: 0.5}}
settings:
  sft.max_steps: 2
  rl.max_steps: 1
  data.task_mix: {system1_train: 24, system1_heldout: 16, system2_train: 8, system2_heldout: 4}
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner")


class Cluster(Double):
    """An API server whose runs are computed when they are started, unless they are to end otherwise."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.local, self.alone = LocalRuns(root), threading.Lock()
        self.work: dict[str, threading.Thread] = {}

    def _run(self, run: Any) -> Any:
        given = dict(run.runtime_config.parameters)
        if self.endings:
            return super()._run(run)
        made = super()._run(run)
        self.work[made.run_id] = threading.Thread(target=self._compute, args=(made.run_id, given), daemon=True)
        self.work[made.run_id].start()
        return made

    def show(self, run: str) -> Any:
        if run in self.work:
            going = self.work[run].is_alive()
            self.frames[run] = [Frame("RUNNING") if going else Frame("SUCCEEDED", {"report": Fate(log="")})]
        return super().show(run)

    def _compute(self, run: str, given: dict[str, Any]) -> None:
        with self.alone:
            self._computed(run, given)

    def _computed(self, run: str, given: dict[str, Any]) -> None:
        random.seed()  # training has set it, and kfp.local would call the next run as an earlier one
        runs = Path(self.local.store) / "runs"
        before = set(runs.iterdir()) if runs.is_dir() else set()
        settings = Path(self.local.store) / given.pop("config").removeprefix(f"{STORE}/")
        registry = given.pop("registry").replace(STORE, self.local.store)
        del given["store"]
        self.local.run(**given, config=settings.read_text(), registry=registry)
        (ended,) = set(runs.iterdir()) - before
        shutil.copytree(ended, runs / run)


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster with one store, so that what a test has computed is taken from there by the next."""
    cluster = Cluster(tmp_path_factory.mktemp("kubeflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "open_store", lambda _: open_store(Path(cluster.local.store)))
        patch.setattr(follow, "POLL_SECONDS", 0.01)
        for name in (OWN_VARIABLE, *SHARED_VARIABLES, "KF_PIPELINES_ENDPOINT"):
            patch.delenv(name, raising=False)
        yield cluster
    cluster.stop()


def called(cluster: Cluster, command: str, file: Path, *more: str) -> tuple[int, str]:
    """The exit code, and what a failure says. The runs' threads change sys.stdout, so nothing else may take it over."""
    out = file.parent / "out"
    given = [command, str(file), "--preset", "tiny", "--out", str(out), "--store", STORE, *more]
    try:
        typer.main.get_command(app).main(args=[*given, "--host", cluster.address], standalone_mode=False)
    except LoraparError as error:
        return int(error.exit_code), str(error)
    return 0, ""


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_cells_run_in_kubeflow_and_are_compared_here(kubeflow, tmp_path) -> None:
    """A pod that is taken away half-way starts the cell again; a second study asks Kubeflow for no further run."""
    kubeflow.endings = [Frame("FAILED", {"plan": "SUCCEEDED", "sft": Fate("FAILED", exit_code=143)})]
    file = written(tmp_path, STUDY)
    code, answer = called(kubeflow, "study", file)
    assert code == 0, answer
    out = tmp_path / "out"
    text = (out / "report.md").read_text()
    assert "2 of 2 runs finished" in text
    assert "| few | System 1 | after SFT |" in text
    started = list(kubeflow.runs.values())
    assert [run.display_name for run in started] == ["two many-seed0", "two many-seed0", "two few-seed0"]
    registries = {run.runtime_config.parameters["registry"] for run in started}
    assert registries == {f"{STORE}/studies/two/{cell}-seed0/registry" for cell in ("many", "few")}
    assert {run.runtime_config.parameters["promote"] for run in started} == {False}
    metrics = json.loads((out / "cells/few-seed0/run/metrics.json").read_text())
    assert metrics["after_rl"]["system1_rows"] == 16
    assert not list(out.glob("cells/*/run/**/*.safetensors")), "weights stay in the store"
    assert called(kubeflow, "study", file)[0] == 0
    assert len(kubeflow.runs) == len(started)


SEARCH = """
name: found
trials: 3
looks: [1.0]
confirm_seeds: []
least_active: 0.05
settings:
  sft.max_steps: 2
  rl.max_steps: 1
  data.task_mix: {system1_train: 24, system1_heldout: 16, system2_train: 8, system2_heldout: 4}
space:
  partition.theta: {values: [0.9, 0.01]}
"""


def test_a_search_in_kubeflow_rules_out_by_the_scores_of_its_first_trial(kubeflow, tmp_path) -> None:
    pytest.importorskip("optuna")
    before = len(kubeflow.runs)
    code, answer = called(kubeflow, "tune", written(tmp_path, SEARCH))
    assert code == 0, answer
    rows = list(csv.DictReader((tmp_path / "out/trials.csv").open()))
    assert rows[0]["ended"] == "finished"
    swept = [row for row in rows if row["partition.theta"] == "0.01"]
    assert swept
    assert all("ruled out by the sweep" in row["ended"] for row in swept)
    assert len(kubeflow.runs) - before <= len(rows) - len(swept)


def test_a_failed_cell_is_reported_with_the_words_of_its_task(kubeflow, tmp_path) -> None:
    died = Fate("FAILED", log="lorapar: sft: the loss is not a number at step 2", exit_code=5)
    kubeflow.endings = [Frame("FAILED", {"plan": "SUCCEEDED", "sft": died})] * 2
    code, answer = called(kubeflow, "study", written(tmp_path, STUDY.replace("seeds: [0]", "seeds: [1]")))
    assert code == 12
    assert "2 of 2 cells failed (many, seed 1: run run-" in answer
    assert "the loss is not a number at step 2" in answer


def test_a_study_that_is_stopped_follows_the_same_run_later(kubeflow, tmp_path) -> None:
    study = parse_study(STUDY, "two")
    cell = cells_of(study, load_config(preset="tiny"), STORE)[0]
    given = Start("two", "lorapar-study-two", {})
    kubeflow.endings = [[*[Frame("RUNNING", {"plan": "SUCCEEDED"})] * 200, Frame("FAILED", {"plan": "FAILED"})]]
    package = build_package({}, None)
    server = Server(Where(kubeflow.address))
    cluster = remote.Cluster(lambda: server, server.upload(package)[:2], package.tasks(), given)
    before = len(kubeflow.runs)

    def follower() -> remote.RemoteCell:
        found = remote.RemoteCell(cluster, study, cell, tmp_path / "cell/run", tmp_path / "cell/log.txt")
        (tmp_path / "cell").mkdir(exist_ok=True)
        found.start()
        return found

    first = follower()
    while not (tmp_path / "cell/kubeflow.json").is_file():
        assert first.is_alive()
        time.sleep(0.01)
    first.terminate()
    assert connection.wait([first.sentinel], timeout=60)
    first.join()
    assert first.exitcode == 143
    second = follower()
    second.join()
    assert second.exitcode == 12
    assert len(kubeflow.runs) - before == 1


@pytest.mark.parametrize(
    ("text", "more", "reported"),
    [
        (f"{STUDY}until: partition\n", (), "until: partition: a run in Kubeflow goes on to its end"),
        (STUDY, ("--set", "data.source=rows.jsonl"), "rows.jsonl"),
    ],
)
def test_what_no_cluster_can_run_is_reported_before_anything_is_started(
    kubeflow, tmp_path, text, more, reported
) -> None:
    before = len(kubeflow.runs)
    code, answer = called(kubeflow, "study", written(tmp_path, text), *more)
    assert code == 2
    assert reported in answer
    assert len(kubeflow.runs) == before


def test_nodes_that_cannot_share_a_step_of_the_cells_are_refused_before_anything_is_started(kubeflow, tmp_path) -> None:
    placement = tmp_path / "placement.yaml"
    placement.write_text("groups: {rl: {nodes: 7, processes: 1}}\n")
    before = len(kubeflow.runs)
    code, answer = called(kubeflow, "study", written(tmp_path, STUDY), "--placement", str(placement))
    assert code == 2
    assert "cannot be divided evenly among 7 nodes" in answer
    assert len(kubeflow.runs) == before


def test_a_placement_is_read_before_a_cluster_is_asked(tmp_path) -> None:
    placement = tmp_path / "placement.yaml"
    placement.write_text("groups: {rl: {nodez: 2}}\n")
    with pytest.raises(BadInputError, match="nodez"):
        cluster_of("two", "http://127.0.0.1:9", None, placement, None, None)


def test_options_of_a_cluster_need_one(tmp_path) -> None:
    with pytest.raises(BadInputError, match="--placement needs --host"):
        cluster_of("two", None, None, tmp_path / "placement.yaml", None, None)
