"""`lorapar study` on the tiny model, for real: cells share what they agree on, go on after a stop, and are compared."""

import csv
import json
import re
import shutil
import signal
import time
from collections import Counter

import pytest
import typer.testing
import yaml

from lorapar.cli import app
from lorapar.cli.base import reporter
from lorapar.config import load_config
from lorapar.config.study import parse_study
from lorapar.config.tune import validate_search
from lorapar.errors import BadInputError
from lorapar.local.folder import RunFolder
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import GRAPH
from lorapar.study.cells import cells_of
from lorapar.study.folder import CellState, StudyFolder
from lorapar.study.kept import result_of
from lorapar.study.runner import StudyRun
from lorapar.study.search import Search

CACHED = {node.name for node in GRAPH if is_cached(node.stage)}
STUDY = """
name: small
title: Do theta and RL's learning rate matter?
seeds: [0, 1]
grid:
  partition.theta: [0.9, 0.5]
  rl.learning_rate: [1.0e-3, 1.0e-4]
paper:
  source: table 3
  measure: right answers
  figures: [{cell: "theta 0.5, learning_rate 0.001", model: after_sft, value: 0.25}]
missing: [something that no setting does]
"""


@pytest.fixture(scope="module")
def small(cli, tmp_path_factory):
    """The folder of a finished study of two by two cells with two seeds, two at a time."""
    place = tmp_path_factory.mktemp("study")
    (place / "small.yaml").write_text(STUDY)
    out = place / "out"
    result = cli(
        "study", place / "small.yaml", "--preset", "tiny", "--out", out, "--parallel", "2", timeout_seconds=500
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def said(*arguments):
    """What a command that only looks prints, without a process of its own."""
    return typer.testing.CliRunner().invoke(app, ["study", *map(str, arguments)], catch_exceptions=False).stdout


def logs(folder):
    return {path.parent.name: path.read_text() for path in folder.glob("cells/*/log.txt")}


def test_every_stage_is_computed_once_for_all_cells_that_agree_on_it(small):
    made = Counter(node for log in logs(small).values() for node in re.findall(r"\] ([\w-]+): done in", log))
    keys = {node: set() for node in CACHED}
    for run in small.glob("cells/*/run"):
        for node, record in RunFolder(run).records().items():
            keys.setdefault(node, set()).add(record.key)
    assert {node: made[node] for node in CACHED} == {node: len(keys[node]) for node in CACHED}
    assert made["vote-first"] == made["score-system1"] == made["score-system2"] == 2, "once a seed"
    assert made["partition"] == made["sft"] == 4, "once a seed and theta"
    assert made["rl"] == made["evaluate"] == 8


def test_two_cells_that_come_to_a_stage_together_make_it_once(small):
    """Both seeds' cells of one theta start side by side later on; whoever comes second takes or waits."""
    for log in logs(small).values():
        for node in CACHED - {"promote"}:
            assert len(re.findall(rf"\] {node}: (done in|taken from)", log)) == 1, node


def test_the_report_shows_every_cell_the_paper_and_what_is_missing(small):
    text = (small / "report.md").read_text()
    assert "8 of 8 runs finished" in text
    assert "| theta 0.5, learning_rate 0.001 | System 2 | after SFT | 0.0% | 0.0–0.0% | 2 | 12 | 25.00% |" in text  # noqa: RUF001
    assert "Holm" in text
    assert "something that no setting does" in text
    page = (small / "report.html").read_text()
    assert page.count("<svg") > 2
    assert "<script" not in page


def test_figures_are_those_of_the_runs(small):
    rows = list(csv.DictReader((small / "figures.csv").open()))
    for row in rows:
        if row["model"] in ("after_sft", "after_rl"):
            runs = small.glob(f"cells/{row['cell'].replace(', ', '-').replace(' ', '-').replace('_', '-')}-seed*/run")
            metrics = [json.loads((run / "metrics.json").read_text())[row["model"]] for run in runs]
            assert float(row["mean"]) == pytest.approx(sum(one[f"{row['measure']}_accuracy"] for one in metrics) / 2)
    costs = list(csv.DictReader((small / "cells.csv").open()))
    assert {(row["sft_steps"], row["rl_steps"]) for row in costs} == {("3", "2")}
    assert int(costs[0]["sft_active"]) > int(costs[-1]["sft_active"])


def test_cells_that_share_an_sft_are_compared_after_it_once(small):
    rows = list(csv.DictReader((small / "comparisons.csv").open()))
    after_sft = [row["cell"] for row in rows if row["model"] == "after_sft" and row["measure"] == "system1"]
    assert after_sft == ["theta 0.5, learning_rate 0.001"]
    assert not [row for row in rows if row["model"] == "base"]


def test_a_second_start_keeps_what_is_finished_and_runs_what_is_not(small, cli, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(small, out)
    lost = out / "cells" / "theta-0.5-learning-rate-0.001-seed1"
    shutil.rmtree(lost)
    (tmp_path / "small.yaml").write_text(STUDY)
    store = small / "store"
    result = cli("study", "run", tmp_path / "small.yaml", "--preset", "tiny", "--out", out, "--store", store)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "7 of 8 cells have finished before" in result.stdout
    assert "done in" not in "".join(line for line in (lost / "log.txt").read_text().splitlines() if "rl:" in line)


def light(folder, out):
    """The same study with what tables are made of and nothing else: no run folders, no store."""
    out.mkdir()
    shutil.copy(folder / "study.yaml", out)
    for path in folder.glob("cells/*/*.*"):
        if path.name in ("state.json", "result.json"):
            (out / "cells" / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / "cells" / path.parent.name)
    return out


def test_without_its_run_folders_a_study_has_the_same_tables_and_every_cell_counts(small, cli, tmp_path):
    out = light(small, tmp_path / "out")
    said("report", out)
    tables = sorted(path.name for path in small.glob("*.csv"))
    assert len(tables) >= 3
    for name in (*tables, "report.md", "report.html"):
        assert (out / name).read_bytes() == (small / name).read_bytes(), name
    (tmp_path / "small.yaml").write_text(STUDY)
    result = cli("study", "run", tmp_path / "small.yaml", "--preset", "tiny", "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 of 8 cells have finished before" in result.stdout
    assert not list(out.glob("cells/*/run"))
    assert said("status", out).count("finished") == 8


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1, "digest": "another"}'])
def test_a_broken_result_is_made_again_of_the_run_or_told_where_that_is_gone(small, tmp_path, text):
    study = parse_study(STUDY, "small.yaml")
    cell, *_ = cells_of(study, load_config(preset="tiny"), str(small / "store"))
    out = tmp_path / "out"
    shutil.copytree(small / "cells" / cell.id, out / "cells" / cell.id)
    folder = StudyFolder(out)
    whole = result_of(cell, folder)
    folder.result(cell).write_text(text)
    assert result_of(cell, folder) == whole, "of the run folder"
    shutil.rmtree(folder.run(cell).root)
    with pytest.raises(BadInputError, match=r"result\.json: .* delete .* to run the cell again"):
        result_of(cell, folder)


def test_a_result_counts_no_further_than_the_run_that_made_it(small, tmp_path):
    study = parse_study(STUDY, "small.yaml")
    cell, *_ = cells_of(study, load_config(preset="tiny"), str(small / "store"))
    folder = StudyFolder(light(small, tmp_path / "out"))
    state = folder.state(cell)
    assert state.until == "execute"
    assert folder.is_finished(cell, state.version, "partition")
    folder.write_state(cell, state.model_copy(update={"until": "partition"}))
    assert folder.is_finished(cell, state.version, "partition")
    assert not folder.is_finished(cell, state.version, "execute")
    folder.write_state(cell, state.model_copy(update={"until": ""}))
    assert not folder.is_finished(cell, state.version, "execute"), "written before results were kept"


def test_a_search_keeps_no_results_because_it_reads_the_runs_themselves(small, tmp_path):
    study = parse_study(STUDY, "small.yaml")
    cell, *_ = cells_of(study, load_config(preset="tiny"), str(small / "store"))
    folder = StudyFolder(light(small, tmp_path / "out"), keeps_results=False)
    assert not folder.is_finished(cell, folder.state(cell).version, "execute")


def test_a_result_that_cannot_be_kept_is_one_line_and_the_run_folder_serves(small, tmp_path, monkeypatch):
    study = parse_study(STUDY, "small.yaml")
    cell, *_ = cells = cells_of(study, load_config(preset="tiny"), str(small / "store"))
    out = tmp_path / "out"
    shutil.copytree(small / "cells" / cell.id, out / "cells" / cell.id)
    folder, lines = StudyFolder(out), []
    folder.result(cell).unlink()
    run = StudyRun(study, cells, folder, reporter, lines.append, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorapar.study.folder.write_atomically", full)
    run._keep_result(cell)
    assert lines == [
        f"{cell.label}: its result is not kept apart from its run folder ([Errno 28] No space left on device)"
    ]
    assert folder.is_finished(cell, folder.state(cell).version, "execute")
    assert result_of(cell, folder).rows


def test_a_failed_cell_is_told_and_the_others_go_on(small, cli, tmp_path):
    """That a file is missing is found out by the run, not by the settings."""
    (tmp_path / "s.yaml").write_text(
        "name: s\ntitle: t\nseeds: [0]\nuntil: partition\ncells:\n"
        "- {name: broken, settings: {edits.source: nowhere.csv}}\n- {name: good, settings: {partition.theta: 0.5}}\n"
    )
    out = tmp_path / "out"
    result = cli("study", tmp_path / "s.yaml", "--preset", "tiny", "--out", out, "--store", small / "store")
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("lorapar:")]
    assert "1 of 2 cells failed (broken, seed 0: edits.source" in line
    assert "good, seed 0: finished" in result.stdout
    assert "1 of 2 runs finished" in (out / "report.md").read_text()
    told = said("status", out)
    assert re.search(r"broken\s+0\s+failed.*edits.source", told)
    assert re.search(r"good\s+0\s+finished\s+partition \(10/10\)", told)


def test_a_stopped_study_goes_on_where_it_was(small, start_cli, tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\ntitle: t\nseeds: [0]\nsettings: {sft.max_steps: 4000, checkpoint.interval_seconds: 0}\n"
        "cells: [{name: long}]\n"
    )
    log = tmp_path / "out" / "cells" / "long-seed0" / "log.txt"
    left = []
    for sent, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        log.unlink(missing_ok=True)
        command = ["study", "run", tmp_path / "s.yaml", "--preset", "tiny", "--out", tmp_path / "out", "--store"]
        process = start_cli(*command, small / "store")
        while not (steps := log.is_file() and re.search(r"sft: tuning on System 1 \d+/(\d+)", log.read_text())):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        left.append(int(steps[1]))
        process.send_signal(sent)
        _, told = process.communicate(timeout=300)
        assert process.returncode == code, told
        assert "during long, seed 0; what is finished is kept" in told
        assert re.search(r"lorapar: terminated during sft", log.read_text())
        assert re.search(r"long\s+0\s+stopped", said("status", tmp_path / "out"))
    assert left[1] < left[0] == 4000


def test_only_one_study_works_in_a_folder_and_none_in_anothers(cli, tmp_path):
    study = parse_study(STUDY, "small")
    folder = StudyFolder(tmp_path / "out")
    with folder.locked():
        folder.write_settings(study, load_config(preset="tiny"), str(tmp_path / "store"))
        assert folder.is_running
        (tmp_path / "s.yaml").write_text(STUDY)
        result = cli("study", tmp_path / "s.yaml", "--preset", "tiny", "--out", folder.root)
    assert result.returncode == 2
    assert "another study is working in this folder" in result.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    result = cli("study", tmp_path / "s.yaml", "--preset", "tiny", "--out", tmp_path / "full")
    assert result.returncode == 2
    assert "is not empty and is no folder of a study" in result.stderr


def test_a_cell_has_finished_only_with_these_settings_and_this_version(small):
    folder = StudyFolder(small)
    study, base, store = folder.read_settings()
    (first, *_) = cells_of(study, base, store)
    (other, *_) = cells_of(study, load_config(preset="tiny", overrides=["sft.max_steps=2"]), store)
    version = folder.state(first).version
    assert folder.is_finished(first, version, "execute")
    assert not folder.is_finished(first, "0.0.1", "execute")
    assert not folder.is_finished(other, version, "execute")
    assert isinstance(folder.state(first), CellState)


def test_status_and_report_of_what_is_no_study(tmp_path):
    for command in ("status", "report"):
        with pytest.raises(BadInputError, match="there is no study in"):
            said(command, tmp_path / "nowhere")
        with pytest.raises(BadInputError, match="not the folder of a study"):
            said(command, tmp_path)


SEARCH = """
name: search
space:
  partition.theta: {values: [0.9, 0.01]}
  rl.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
trials: 2
looks: [0.5, 1]
measure: both
keep_one_of: 2
confirm_seeds: [1]
"""


def test_a_search_trains_less_than_it_tries_goes_on_and_ends_with_settings(small, cli, tmp_path):
    pytest.importorskip("optuna")

    def tuned(*arguments):
        result = cli("tune", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    (tmp_path / "s.yaml").write_text(SEARCH)
    out = tmp_path / "out"
    command = (tmp_path / "s.yaml", "--preset", "tiny", "--out", out, "--store", small / "store")
    told = tuned(*command)
    first = list(csv.DictReader((out / "trials.csv").open()))
    assert float(first[0]["rl.learning_rate"]) == load_config(preset="tiny").rl.learning_rate, "as given comes first"
    assert first[0]["ended"] == "finished"
    assert "trial 0 look 1, seed 0: finished" in told
    told = tuned(*command, "--trials", "4")
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert rows[:2] == first, "finished trials are kept"
    assert "trial 0" not in told
    assert len(rows) == 4
    swept = [row for row in rows if float(row["partition.theta"]) < 0.1]
    assert swept
    assert all("ruled out by the sweep: SFT would train" in row["ended"] and row["looks"] == "0" for row in swept)
    trained = [row for row in rows if row not in swept]
    assert all(row["ended"] == "finished" or "held-out loss" in row["ended"] for row in trained)
    best = load_config(file=out / "best.yaml")
    winner = min(
        (row for row in trained if row["ended"] == "finished"),
        key=lambda row: (-float(row["right"]), float(row["loss after 100%"])),
    )
    assert best.rl.learning_rate == float(winner["rl.learning_rate"])
    for place, row in enumerate(rows):
        for look in (1, 2):
            shown = out / "cells" / f"trial-{place}-look-{look}-seed0" / "run" / "stages" / "rl" / "adapter"
            assert (shown / "history.jsonl").is_file() == (look <= int(row["looks"]))
    changed = (out / "confirm" / "report.md").is_file()
    assert changed == (best.rl.learning_rate != load_config(preset="tiny").rl.learning_rate)
    other = validate_search({**yaml.safe_load(SEARCH), "keep_one_of": 3}, "s")
    with pytest.raises(BadInputError, match="another search, or one of other settings, was made here"):
        Search(other, load_config(preset="tiny"), StudyFolder(out), "store", reporter, print).run()
