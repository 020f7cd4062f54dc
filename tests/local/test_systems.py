"""A whole run with three systems of its own: each has votes, scores, elements, phases and figures."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorapar import __version__
from lorapar.adapter import Partition, load_scores
from lorapar.config import load_config
from lorapar.config.study import parse_study
from lorapar.evaluation import read_outcomes
from lorapar.local.edits import export_rows, import_edits
from lorapar.local.folder import RunFolder
from lorapar.local.partitions import swept
from lorapar.records import Example, read_json, read_records
from lorapar.store import verify
from lorapar.study.cells import cells_of, fitted
from lorapar.study.folder import CellState, StudyFolder
from lorapar.study.report import write_study_report
from lorapar.training.candidates import candidates_in
from tests.conftest import run_cli

NAMES = ("recall", "sums", "naming")
PLACES = {"recall": "system1/examples.jsonl", "sums": "system2/examples.jsonl", "naming": "system2/naming.jsonl"}
SETTINGS = {
    "name": "three",
    "model": {"name": "builtin:tiny", "dtype": "float32"},
    "systems": [
        {"name": "recall", "description": "it asks for one fact"},
        {"name": "sums", "description": "it has something to add up", "steps": True},
        {"name": "naming", "description": "it asks for a name", "shared": 0.5},
    ],
    "phases": [
        {"system": "recall", "method": "sft"},
        {"system": "naming", "method": "sft", "settings": {"max_steps": 2, "learning_rate": 5e-4}},
        {"system": "sums", "method": "rl"},
    ],
    "data": {"heldout": 9, "development": 5},
    "publish": {"pick": "best", "candidates": 2},
    "teachers": [
        {
            "name": "one",
            "dtype": "float32",
            "template": {
                "style": "plain",
                "instruction": "",
                "row": "{question}\n{answer}",
                "label_words": {"recall": "stop", "sums": "pots", "naming": "tops"},
            },
        }
    ],
    "score": {"examples": 3, "max_length": 256},
    "sft": {"max_steps": 1, "learning_rate": 1e-3, "batch_size": 4, "gradient_accumulation": 1, "max_length": 256},
    "rl": {
        **{"max_steps": 2, "learning_rate": 1e-3, "batch_size": 4, "gradient_accumulation": 1, "num_generations": 4},
        **{"max_prompt_length": 256, "max_completion_length": 6, "kl_beta": 0.05},
    },
    "evaluate": {"batch_size": 9, "max_new_tokens": 4},
}


STUDY = """
name: s
title: Which order?
seeds: [0]
cells:
- {name: given, settings: {phases: [sft, rl]}}
- {name: turned, settings: {phases: [rl, sft]}}
- {name: both at once, settings: {phases: [sft+rl]}}
"""


def _rows():
    for number in range(9):
        yield "Recall", f"Which class has the word w{number}ka?", "bird", "bird"
        tags = f"<reasoning>{number}+2</reasoning><answer>{number + 2}</answer>"
        yield "sums", f"Tom has {number} pears and buys 2. How many?", tags, str(number + 2)
        yield "naming", f"What is planet number {number} called?", "Mars", "Mars"


def write_settings(folder: Path) -> tuple[Path, Path]:
    """Settings with rows of three systems, and what a person says of each row; the paths of both."""
    lines = [
        {"id": f"r{place}", "question": question, "answer": answer, "reference": short, "system": system}
        for place, (system, question, answer, short) in enumerate(_rows())
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = yaml.safe_dump({**SETTINGS, "data": {**SETTINGS["data"], "source": str(folder / "rows.jsonl")}})
    (folder / "three.yaml").write_text(text)
    run = RunFolder(folder / "prepared")
    first = run_cli("run", "--config", folder / "three.yaml", "--out", run.root, "--until", "prepare")
    assert first.returncode == 0, first.stdout + first.stderr
    prepared = read_records(run.artifact("prepare", "examples") / "examples.jsonl", Example)
    voted = {one.id for one in prepared if one.split == "train"}
    edits = [(one["id"], one["system"].lower()) for one in lines if one["id"] in voted]
    with (folder / "edits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("example_id", "edited"), *edits])
    return folder / "three.yaml", folder / "edits.csv"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    config, edits = write_settings(folder)
    run = RunFolder(folder / "run")
    done = run_cli("run", "--config", config, "--set", f"edits.source={edits}", "--out", run.root)
    assert done.returncode == 0, done.stdout + done.stderr
    return run, done.stdout


def test_the_last_phase_keeps_candidates_of_which_one_is_picked(three):
    run, message = three
    kept = candidates_in(run.artifact("rl", "adapter"))
    assert list(kept) == [1], "of two steps of RL; SFT's phases keep none"
    assert not list((run.root / "stages" / "sft").rglob("candidates"))
    pick = read_json(run.root / "lineage.json")["picked"]
    assert (pick["step"], pick["steps"], pick["development_rows"]) == (2, 2, 5)
    assert [one["step"] for one in pick["candidates"]] == [1, 2]
    rows = list(read_records(run.artifact("prepare", "examples") / "examples.jsonl", Example))
    apart = {row.id for row in rows if row.split == "development"}
    assert len(apart) == 5
    for place in (run.root / "stages" / "tally").rglob("*.jsonl"):
        assert place.name == "labels.jsonl" or not apart & {row.id for row in read_records(place, Example)}
    assert "publish.pick: 5 development rows can show no adapter to be better, 6 are the least" in message


def test_every_row_is_dealt_to_the_place_of_its_system(three):
    run, _ = three
    assigned = run.root / "stages" / "tally"
    summary = read_json(run.artifact("tally", "labels") / "summary.json")
    for name, place in PLACES.items():
        rows = list(read_records(assigned / place, Example))
        assert {row.known_system for row in rows} == {name}
        assert summary["train_rows"][name] == len(rows)
        assert all(row.known_system == name for row in read_records(assigned / "heldout" / f"{name}.jsonl", Example))
    assert set(summary["teachers"]["one"]["shares"]) == set(NAMES)


def test_each_system_is_scored_on_its_own_rows_and_the_partition_follows_the_definition(three):
    run, _ = three
    second = run.artifact("score-system2", "scores")
    folders = {"recall": run.artifact("score-system1", "scores"), "sums": second, "naming": second / "naming"}
    scores = {name: load_scores(folder / "scores.safetensors") for name, folder in folders.items()}
    assert {name: about["system"] for name, (_, about) in scores.items()} == {name: name for name in NAMES}
    partition = Partition.load(run.artifact("partition", "partition") / "partition.safetensors")
    assert partition.systems == NAMES
    assert partition.shared == {"recall": 1.0, "sums": 1.0, "naming": 0.5}
    sizes = partition.sizes()
    assert sizes["naming"].active == sizes["naming"].exclusive + sizes["naming"].shared // 2
    figures = read_json(run.artifact("partition", "partition") / "summary.json")
    assert set(figures["jaccards"]) == {f"{one}/{other}" for one, other in combinations(NAMES, 2)}
    regions = [*(f"{name}_only" for name in NAMES), "shared", "unused"]
    assert sum(figures[f"{region}_elements"] for region in regions) == figures["elements"]
    assert {row.active[name] for row in swept(run.root)[0] if row.theta == 0.9 for name in ["naming"]} == {
        sizes["naming"].active
    }


def test_each_phase_moves_only_elements_of_its_system(three):
    run, _ = three
    partition = Partition.load(run.artifact("partition", "partition") / "partition.safetensors")
    places = [run.artifact(node, "adapter") for node in ("init", "sft", "rl")]
    before, middle, after = (load_file(place / "adapter_model.safetensors") for place in places)
    masks = {name: partition.mask(name) for name in NAMES}

    def moved_within(old, new, systems):
        changed = 0
        for key in masks[systems[0]]:
            allowed = torch.stack([masks[name][key] for name in systems]).any(0)
            tensor = next(name for name in old if name == key or name.endswith(key))
            size = tuple(allowed.shape)
            moved = (old[tensor] != new[tensor])[: size[0], : size[1]]
            assert not (moved & ~allowed).any(), key
            changed += int(moved.sum())
        return changed

    assert moved_within(before, middle, ["recall", "naming"]) > 0
    moved_within(middle, after, ["sums"])
    phases = read_json(run.artifact("sft", "adapter") / "summary.json")["phases"]
    assert [(one["system"], one["method"], one["steps"]) for one in phases] == [
        ("recall", "sft", 1),
        ("naming", "sft", 2),
    ]
    metrics = run.record("sft").metrics
    assert (metrics["1_recall_sft_steps"], metrics["2_naming_sft_steps"]) == (1.0, 2.0)


def test_a_phase_has_settings_of_its_own(three):
    run, _ = three
    phases = read_json(run.artifact("sft", "adapter") / "summary.json")["phases"]
    assert [one["trl"]["learning_rate"] for one in phases] == [1e-3, 5e-4]
    assert [one.get("settings") for one in phases] == [None, {"max_steps": 2, "learning_rate": 5e-4}]
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert "SFT with learning_rate 0.0005, max_steps 2" in page
    assert "but sft of naming with learning_rate 0.0005, max_steps 2" in page


def test_evaluation_gate_and_report_name_the_systems(three):
    run, message = three
    evaluation = run.artifact("execute", "evaluation")
    assert set(read_outcomes(evaluation, "strict")) == set(NAMES)
    verdict = read_json(run.artifact("gate", "verdict") / "verdict.json")
    assert {one["measure"] for one in verdict["figures"]["comparisons"]} == set(NAMES)
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert all(f"{name} only" in page for name in NAMES)
    assert "sft of recall, sft of naming with learning_rate 0.0005, max_steps 2, rl of sums" in page
    assert "naming" in message
    lineage = read_json(run.root / "lineage.json")
    assert [one["name"] for one in lineage["settings"]["systems"]] == list(NAMES)
    assert lineage["partition"]["naming_trained_fraction"] > 0


def test_labels_are_edited_by_name_and_whole_outputs_are_kept(three, tmp_path):
    run, _ = three
    verify(run.artifact("score-system2", "scores"))
    file = tmp_path / "votes.csv"
    assert export_rows(run, file, every_row=True).rows == 13
    assert "recall" in file.read_text()
    file.write_text("example_id,edited\nr0,system1\n")
    with pytest.raises(Exception, match="edited is 'system1'; write recall, sums, naming, hold_out"):
        import_edits(run, file)


def test_a_study_reports_runs_of_named_systems_by_system(three, tmp_path):
    """A cell whose run this is, beside one that has not begun."""
    run, _ = three
    base = load_config(file=run.root.parent / "three.yaml")
    study = fitted(parse_study(STUDY, "s"), base)
    assert study.missing == ("The cell “both at once”: phases of named systems have no such order.",)
    first, second = cells_of(study, base, "/store")
    assert [one.system for one in second.config.phases] == ["sums", "recall", "naming"]
    folder = StudyFolder(tmp_path)
    folder.cell(first).mkdir(parents=True)
    folder.run(first).root.symlink_to(run.root)
    folder.write_state(first, CellState(status="finished", digest=first.digest, version=__version__))
    write_study_report(study, [first, second], folder)
    figures = list(csv.DictReader((tmp_path / "figures.csv").open()))
    asked = {(row["model"], row["measure"]) for row in figures if row["model"]}
    assert asked == {(model, name) for model in ("base", "after_sft", "after_rl") for name in NAMES}
    regions = {row["measure"] for row in figures if not row["model"]}
    assert {"recall_only_share_of_set", "naming_trained_fraction", "jaccard recall/sums"} <= regions
    (cost,) = csv.DictReader((tmp_path / "cells.csv").open())
    assert (cost["sft_steps"], cost["rl_steps"]) == ("3", "2"), "of all phases"
    page = (tmp_path / "report.md").read_text()
    assert "phases of naming train | Jaccard of recall and sums" in page
    assert "| given | naming | at the end |" in page
