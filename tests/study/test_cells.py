"""The runs of a study as base settings allow them: optional cells, and your own systems."""

from dataclasses import replace

import pytest

from lorapar.config import RunConfig, load_config, validate_settings
from lorapar.config.study import StudyConfig, load_study, parse_study
from lorapar.errors import BadInputError
from lorapar.study.cells import cells_of, fitted, reference_of

RECALL, SUMS = {"system": "recall", "method": "sft"}, {"system": "sums", "method": "rl"}
ORDERS = {"SFT then RL": "[sft, rl]", "RL then SFT": "[rl, sft]", "SFT only": "[sft]", "RL only": "[rl]"}


def base(*phases: dict[str, str]) -> RunConfig:
    systems = [{"name": "recall", "description": "a fact"}, {"name": "sums", "description": "steps"}]
    return validate_settings({"systems": systems, "phases": phases, "data": {"source": "rows.jsonl"}}, "base")


def study(*names: str, more: str = "") -> StudyConfig:
    cells = "\n".join(f"  - {{name: {name}, settings: {{phases: {ORDERS[name]}}}}}" for name in names)
    return parse_study(f"name: s\ntitle: t\nseeds: [0]\ncells:\n{cells}\n{more}", "s")


def test_an_order_of_methods_becomes_the_phases_in_that_order() -> None:
    found = fitted(study("RL then SFT", "SFT only"), base(RECALL, SUMS))
    first, second = cells_of(found, base(RECALL, SUMS), "/store")
    assert [(one.system, one.method) for one in first.config.phases] == [("sums", "rl"), ("recall", "sft")]
    assert [one.system for one in second.config.phases] == ["recall"]
    assert found.missing == ()


@pytest.mark.parametrize("more", ["reference: SFT then RL", ""], ids=["named", "the first"])
def test_where_the_reference_has_no_such_order_another_takes_its_place_and_that_is_reported(more: str) -> None:
    also = {"system": "sums", "method": "sft"}
    given = parse_study(
        "name: s\ntitle: t\ncells:\n  - {name: SFT then RL, settings: {phases: [sft, rl]}}\n"
        "  - {name: SFT only, settings: {phases: [sft]}}\n"
        f"  - {{name: more rows, settings: {{sft.epochs: 2}}}}\n{more}",
        "s",
    )
    found = fitted(given, base(RECALL, also))
    assert [cell.name for cell in found.cells] == ["SFT only", "more rows"]
    assert reference_of(found) == "SFT only"
    assert found.missing == (
        "The cell “SFT then RL”: phases of named systems have no such order.",
        "The comparisons with “SFT then RL”, which is left out: cells are compared with “SFT only” instead.",
    )
    assert {cell.name for cell in cells_of(found, base(RECALL, also), "/store")} == {"SFT only", "more rows"}


def test_a_reference_that_stays_is_the_reference() -> None:
    found = fitted(study("RL only", "SFT only", more="reference: SFT only"), base(RECALL, SUMS))
    assert (reference_of(found), found.missing) == ("SFT only", ())


def test_one_cell_that_is_left_is_compared_with_none() -> None:
    found = fitted(study("SFT then RL", "SFT only", more="reference: SFT then RL"), base(RECALL))
    assert reference_of(found) == "SFT only"
    assert found.missing[-1] == "Comparisons: “SFT only” alone is left."
    assert len(cells_of(found, base(RECALL), "/store")) == 1


def test_a_study_of_which_no_cell_is_left_is_refused_with_its_cells() -> None:
    with pytest.raises(
        BadInputError,
        match=r"study s: no cell fits these settings \(RL only: phases of named systems have no such order; RL then",
    ):
        fitted(study("RL only", "RL then SFT"), base(RECALL))


def test_orders_in_a_grid_and_of_every_cell_are_phases_too() -> None:
    own = base(RECALL, SUMS)
    grid = parse_study("name: s\ntitle: t\nseeds: [0]\ngrid: {phases: [[sft, rl], [rl, sft]]}", "s")
    orders = [[one.method for one in cell.config.phases] for cell in cells_of(fitted(grid, own), own, "/store")]
    assert orders == [["sft", "rl"], ["rl", "sft"]]
    every = parse_study("name: s\ntitle: t\nseeds: [0]\nsettings: {phases: [rl]}\ngrid: {rl.epochs: [1, 2]}", "s")
    (one, _) = cells_of(fitted(every, own), own, "/store")
    assert [phase.system for phase in one.config.phases] == ["sums"]


def test_a_study_of_the_papers_two_systems_is_left_as_it_is() -> None:
    given = study("SFT then RL", "RL only")
    assert fitted(given, RunConfig()) == given


@pytest.mark.parametrize(
    ("preset", "left_out"),
    [
        ("tiny", ["5 teachers, role-play"]),
        ("paper-llama2-7b-gsm8k", ["true labels"]),
        ("single-gpu-24gb", ["5 teachers, role-play", "true labels"]),
    ],
)
def test_the_study_of_labels_has_the_cells_that_the_base_settings_allow(preset: str, left_out: list[str]) -> None:
    own, given = load_config(preset=preset), load_study("labels")
    found = fitted(given, own)
    names = [cell.name for cell in given.cells]
    assert [cell.name for cell in found.cells] == [name for name in names if name not in left_out]
    assert [line.partition(":")[0] for line in found.missing[1:]] == [f"The cell “{name}”" for name in left_out]
    assert not {figure.cell for figure in found.paper.figures} & set(left_out)
    cells = {cell.name: cell.config for cell in cells_of(found, own, "/store") if cell.seed == 0}
    assert cells["random split"].voting.labels == "random"
    assert [len(config.teachers) for name, config in cells.items() if name.startswith(("3", "5"))] == (
        [3, 5] if len(own.teachers) == 5 else [3]
    )


def test_an_optional_cell_that_is_the_reference_is_replaced_and_any_other_is_refused() -> None:
    cells = "  - {name: five, settings: {teachers.count: 5}, optional: true}\n  - {name: one, settings: {}}\n"
    more = "  - {name: long, settings: {sft.epochs: 2}}\n"
    given = parse_study(f"name: s\ntitle: t\nreference: five\ncells:\n{cells}{more}", "s")
    found = fitted(given, load_config(preset="tiny"))
    assert reference_of(found) == "one"
    assert found.missing[0].startswith("The cell “five”: teachers.count: must be a whole number from 1 to 3")
    assert "“five”, which is left out: cells are compared with “one”" in found.missing[1]
    strict = given.model_copy(update={"cells": tuple(c.model_copy(update={"optional": False}) for c in given.cells)})
    with pytest.raises(BadInputError, match=r"study s, five: teachers.count: must be a whole number from 1 to 3"):
        cells_of(fitted(strict, load_config(preset="tiny")), load_config(preset="tiny"), "/store")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("{name: a, settings: {sft.epochs: 2}}, {name: b, settings: {sft.epochs: 2}}", "come to the same settings"),
        ("{name: a b, settings: {sft.epochs: 2}}, {name: a-b, settings: {sft.epochs: 3}}", "would share a folder"),
    ],
)
def test_cells_that_cannot_be_told_apart_are_refused(cells: str, message: str) -> None:
    given = parse_study(f"name: s\ntitle: t\nseeds: [0]\ncells: [{cells}]", "s")
    with pytest.raises(BadInputError, match=rf"study s: 'a.*, seed 0' and '.*, seed 0' {message}; keep one of them"):
        cells_of(given, load_config(preset="tiny"), "/store")


def test_phases_that_a_cell_names_itself_are_left_as_they_are() -> None:
    own = base(RECALL, SUMS)
    named = "[{system: sums, method: rl}, {system: recall, method: sft}]"
    given = parse_study(f"name: s\ntitle: t\nseeds: [0]\ncells:\n  - {{name: a, settings: {{phases: {named}}}}}", "s")
    (cell,) = cells_of(fitted(given, own), own, "/store")
    assert [one.system for one in cell.config.phases] == ["sums", "recall"]


def test_a_setting_that_is_new_in_lorapar_leaves_earlier_results_as_they_are() -> None:
    class Later(RunConfig):
        added: bool = False

    given = parse_study("name: s\ntitle: t\nseeds: [0]\ncells:\n  - {name: one, settings: {sft.epochs: 2}}\n", "s")
    (cell,) = cells_of(given, load_config(preset="tiny"), "/store")
    settings = cell.config.model_dump()
    assert replace(cell, config=Later(**settings)).digest == cell.digest
    assert replace(cell, config=Later(**settings, added=True)).digest != cell.digest
