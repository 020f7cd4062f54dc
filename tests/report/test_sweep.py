"""The sweep over theta, as table and as plot."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from lorapar.adapter import SweepRow, sweep
from lorapar.report.sweep import sweep_plot, sweep_rows


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
