"""Which elements were trained, as drawings, and other values of theta as a table and a picture."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from lorapar.adapter import SweepRow, sweep
from lorapar.report.elements import (
    REGIONS,
    heat_maps,
    region_curve,
    region_rows,
    region_sentence,
    scatter_chart,
    scatter_count,
    sweep_plot,
    theta_chart,
    theta_sentence,
)
from lorapar.report.sources import ReportSources, Values, read_facts
from lorapar.report.terminal import sweep_rows


@pytest.fixture(scope="module")
def partition(sources: ReportSources) -> Values:
    """summary.json of the partition stage."""
    found = read_facts(sources).partition
    assert found is not None
    return found


def dots_of(drawing: str, colour: str) -> list[tuple[float, float]]:
    """Places of a region's dots."""
    path = re.search(rf'<path d="([^"]*)" class="dots {colour}"/>', drawing)
    assert path is not None
    return [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", path[1])]


def test_the_scatter_shows_each_region_as_often_as_it_was_drawn(partition: Values) -> None:
    drawing = scatter_chart(partition)
    assert drawing is not None
    drawn = partition["scatter"]["region"]
    for region in REGIONS:
        assert len(dots_of(drawing, region.colour)) == drawn.count(region.key)
    assert scatter_count(partition) == len(drawn)


def test_regions_lie_on_their_side_of_the_thresholds(partition: Values) -> None:
    drawing = scatter_chart(partition)
    assert drawing is not None
    only_one, only_two = dots_of(drawing, "s1"), dots_of(drawing, "s2")
    # What only System 1 chose lies further right than anything only System 2 chose, which lies higher (smaller y).
    assert min(x for x, _ in only_one) >= max(x for x, _ in only_two)
    assert max(y for _, y in only_two) <= min(y for _, y in only_one)


def test_scores_of_zero_lie_on_the_edge() -> None:
    scatter = {"system1": [0.0, 1e-3], "system2": [1e-4, 1e-3], "region": ["unused", "shared"]}
    drawing = scatter_chart({"scatter": scatter})
    assert drawing is not None
    assert dots_of(drawing, "inactive")[0][0] == 58.0
    assert scatter_chart({"scatter": {"system1": [0.0], "system2": [0.0], "region": ["unused"]}}) is None
    assert scatter_chart({}) is None


def test_heat_maps_have_a_cell_for_each_module_of_each_layer(partition: Values) -> None:
    maps = heat_maps(partition)
    assert [one.title for one in maps] == ["S1 only", "S2 only", "shared"]
    for one, region in zip(maps, REGIONS, strict=False):
        assert one.drawing.count("<rect") == len(partition["regions"]) == 4 * 6
        cell = partition["regions"][0]
        words = f"layer {cell['layer']}, {cell['module']}: {100 * cell[region.key] / cell['total']:.1f}%"
        assert words in one.drawing
    assert heat_maps({}) == []


def test_modules_outside_the_layers_have_a_column_of_their_own() -> None:
    cell = {"module": "odd", "total": 10, "system1_only": 1, "system2_only": 2, "shared": 3}
    (first, *_) = heat_maps({"regions": [{**cell, "layer": None}, {**cell, "layer": 0}]})
    assert "outside the layers, odd: 10.0% S1 only (1 of 10)" in first.drawing


def test_the_curve_runs_through_the_figures_and_marks_this_run(partition: Values) -> None:
    drawing = theta_chart(partition, with_paper=False)
    assert drawing is not None
    assert "this run: 0.9" in drawing
    assert drawing.count('class="curve') == 3
    assert 'class="cross"' not in drawing
    assert 'class="cross"' in (theta_chart(partition, with_paper=True) or "")
    line = re.search(r'<polyline points="([^"]*)" class="curve s2"', drawing)
    assert line is not None
    heights = [float(pair.split(",")[1]) for pair in line[1].split()]
    assert heights == sorted(heights, reverse=True)
    assert theta_chart({}, with_paper=True) is None


def test_the_region_curve_divides_both_sets(partition: Values) -> None:
    drawing = region_curve(partition)
    assert drawing is not None
    lines = re.findall(r'<polyline points="([^"]*)" class="curve', drawing)
    columns = [[float(pair.split(",")[1]) for pair in line.split()] for line in lines]
    bottom, top = 256.0, 14.0
    shares = [sum((bottom - y) / (bottom - top) for y in ys) for ys in zip(*columns, strict=True)]
    assert shares == pytest.approx([1.0] * len(shares), abs=0.002)
    assert region_curve({}) is None


def test_sizes_in_words(partition: Values) -> None:
    assert sum(int(row["elements"].replace(",", "")) for row in region_rows(partition)) == partition["elements"]
    assert f"{100 * partition['rl_active_fraction']:.1f}%" in region_sentence(partition)
    assert "The 10% of the importance that theta 0.9 leaves out" in theta_sentence(partition)


@pytest.fixture(scope="module")
def rows() -> list[SweepRow]:
    """A sweep over random scores."""
    draw = torch.Generator().manual_seed(0)
    scores = {system: {"a.lora_A.weight": torch.rand(8, 40, generator=draw) ** 6} for system in ("system1", "system2")}
    return sweep(scores, [0.3, 0.9, 1.0])


def test_a_line_for_each_theta(rows: list[SweepRow]) -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(sweep_rows(rows))
    lines = [line.split() for line in capture.get().splitlines() if line.strip()]
    assert [line[0] for line in lines[-3:]] == ["0.3", "0.9", "1"]
    assert lines[-1][1:] == ["100.0%", "0.0%", "100.0%", "0.0%", "100.0%", "1.000"]
    assert lines[-2][1] == f"{100 * rows[1].active_fraction('system1'):.1f}%"


def test_the_plot_is_one_svg_file_without_references(rows: list[SweepRow], tmp_path: Path) -> None:
    path = tmp_path / "theta-sweep.svg"
    sweep_plot(rows, path)
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    curves = [
        line for line in root.iter("{http://www.w3.org/2000/svg}polyline") if len(line.get("points", "").split()) == 3
    ]
    assert len(curves) == 3
    assert "http" not in path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "System 1 trains" in path.read_text(encoding="utf-8")


def test_more_than_two_systems(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    scores = {name: {"a.lora_A.weight": torch.rand(4, 20, generator=draw)} for name in ("system1", "system2", "code")}
    rows = sweep(scores, [0.5])
    assert [column.header for column in sweep_rows(rows).columns][-3:] == [
        "Jaccard System 1 / System 2",
        "Jaccard System 1 / code",
        "Jaccard System 2 / code",
    ]
    sweep_plot(rows, tmp_path / "plot.svg")
    assert "code trains" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
