"""The closing table at the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, RenderableType

from lorapar.report.page import write_report
from lorapar.report.sources import ReportSources
from lorapar.report.terminal import closing_table


def shown(renderable: RenderableType) -> str:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_table_of_a_whole_run(sources: ReportSources, tmp_path: Path) -> None:
    write_report(sources, tmp_path)
    text = shown(closing_table(tmp_path / "metrics.json"))
    lines = [line.strip() for line in text.splitlines()]
    assert [line.split("  ")[0] for line in lines if line.startswith(("base", "after"))] == [
        "base",
        "after SFT",
        "after RL",
    ]
    assert "System 1: up after SFT (p < 0.001), within noise after RL" in text
    assert "System 2: " in text


def test_a_run_that_was_not_evaluated(tmp_path: Path) -> None:
    write_report(ReportSources(), tmp_path)
    assert "nothing was evaluated" in shown(closing_table(tmp_path / "metrics.json"))
