"""Studies: those that ship fit their base settings, and what is wrong in one is a line before anything runs."""

import pytest

from lorapar.config import load_config
from lorapar.config.study import load_study, parse_study, study_names, study_text
from lorapar.errors import BadInputError
from lorapar.study.cells import cells_of, fitted, reference_of

GRID = "name: mine\ntitle: Why?\ngrid: {partition.theta: [0.5, 0.9]}\n"
PAPER = "paper: {source: table 3, measure: right answers, beside: sytem2, figures: []}"


def cells(text, *overrides, preset="tiny"):
    return cells_of(parse_study(text, "mine.yaml"), load_config(preset=preset, overrides=overrides), "/store")


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("preset", ["tiny", "demo", "paper-llama2-7b-gsm8k"])
def test_a_study_that_ships_fits_every_size(name, preset):
    study = load_study(name)
    assert study.name == name
    base = load_config(preset=preset)
    if name == "baselines-short" and preset != "demo":
        with pytest.raises(BadInputError, match="its cells are for base settings with"):
            fitted(study, base)
        return
    study = fitted(study, base)
    found = cells_of(study, base, "/store")
    assert len(found) == len({cell.name for cell in found}) * len(study.seeds)
    assert reference_of(study) in {cell.name for cell in found}


@pytest.mark.parametrize("name", study_names())
def test_its_first_line_says_what_it_is(name):
    assert study_text(name).startswith("# ")


def test_a_grid_is_every_combination_with_every_seed():
    grid = "grid: {partition.theta: [0.5, 0.9], adapter.init: [paper, pissa]}"
    found = cells("name: m\ntitle: t\nseeds: [3, 4]\n" + grid)
    assert [cell.id for cell in found[:3]] == [
        "theta-0.5-init-paper-seed3",
        "theta-0.5-init-paper-seed4",
        "theta-0.5-init-pissa-seed3",
    ]
    assert (found[2].config.partition.theta, found[2].config.adapter.init, found[2].config.seed) == (0.5, "pissa", 3)
    assert len(found) == 8


def test_keys_that_end_alike_are_distinguished():
    found = cells("name: m\ntitle: t\ngrid: {sft.learning_rate: [0.001], rl.learning_rate: [2.0e-4]}")
    assert found[0].name == "sft.learning_rate 0.001, rl.learning_rate 0.0002"


def test_a_cell_is_no_candidate_for_production_and_publishes_beside_itself():
    (first, *_) = cells(GRID, "registry.address=s3://real/registry", "gate.promote=true")
    assert (first.config.registry.address, first.config.gate.promote) == (None, False)
    assert first.config.store.address == "/store"


def test_the_first_teachers_vote():
    found = cells("name: m\ntitle: t\nseeds: [0]\ngrid: {teachers.count: [1, 3]}")
    assert [[teacher.name for teacher in cell.config.teachers] for cell in found] == [
        ["forward"],
        ["forward", "preposition", "tempo"],
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            GRID.replace("theta", "thetta"),
            r"study mine, thetta 0.5: partition.thetta: no such key .did you mean 'theta'",
        ),
        (GRID.replace("0.9", "1.9"), r"study mine, theta 1.9: partition.theta: must lie in \(0, 1\]"),
        (GRID + "seeds: [1, 1]", "seeds: 1 is there twice"),
        (GRID + "referense: theta 0.9", r"referense: no such key \(did you mean 'reference'"),
        (GRID + "reference: theta 0.8", r"reference: no cell is called 'theta 0.8' \(did you mean"),
        (GRID + "cells: [{name: other}]", "grid or cells: give one of the two"),
        ("name: m\ntitle: t", "grid or cells: give one of the two"),
        ("name: m\ntitle: t\ngrid: {seed: [1, 2]}", "seed: a study sets it itself .seeds names the seeds"),
        ("name: m\ntitle: t\ngrid: {gate.promote: [true]}", "gate.promote: a study sets it itself"),
        ("name: m\ntitle: t\ngrid: {partition.theta: [0.9, 0.9]}", "would share a folder"),
        ("name: m\ntitle: t\ncells: [{name: a}, {name: b}]", "'a, seed 0' and 'b, seed 0' come to the same settings"),
        ("name: m\ntitle: t\ngrid: {teachers.count: [1, 9]}", "teachers.count: must be a whole number from 1 to 3"),
        ("name: ../out\ntitle: t\ngrid: {partition.theta: [1.0]}", "name: "),
        ("- a list", "expected sections"),
        ("name: m\ntitle: t\ngrid: {'': [0.5, 1]}", "mine.yaml: settings: '' is no setting; write it as section.key"),
        ("name: m\ntitle: t\ncells: [{name: a, settings: {a=b.c: 1}}]", "'a=b.c' is no setting"),
        ("name: m\ntitle: t\ncells: [{name: a, settings: {name.x: 1}}]", "name.x: a study sets it itself"),
        ("name: m\ntitle: t\ncells: [{name: a, settings: {sft.epochs.x: 1}}]", "study m, a: sft.epochs: must be"),
        (GRID + "seeds: [1.0]", r"seeds.0: must be a whole number"),
        (GRID + "settings: {partition.theta: 1}", "settings: partition.theta is in grid too; leave one of them out"),
        (
            GRID + "settings: {partition: {alpha: 1}}",
            "study mine, theta 0.5: partition: is a section; write partition.KEY",
        ),
        (GRID + PAPER, r"paper.beside: nothing is measured as 'sytem2' \(did you mean 'system2'\?\)"),
    ],
)
def test_what_is_wrong_is_one_line(text, line):
    with pytest.raises(BadInputError, match=line) as caught:
        cells(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(BadInputError, match=r"no study is called 'tetha' \(did you mean 'theta'\?\)"):
        load_study("tetha")
    with pytest.raises(BadInputError, match="there is no study nowhere"):
        load_study("nowhere.yaml")


def test_a_value_of_another_kind_is_reported_as_in_the_settings_of_a_run() -> None:
    with pytest.raises(BadInputError, match=r"^mine: seeds: must be a list \(got 3\)$"):
        parse_study("name: mine\ntitle: Which?\nseeds: 3\ncells: [{name: a}, {name: b}]\n", "mine")
