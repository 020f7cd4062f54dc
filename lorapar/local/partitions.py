"""The partition of a finished run, and what other values of theta would give, from its saved scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from lorapar.config import SYSTEMS
from lorapar.config.systems import slot_of
from lorapar.errors import BadInputError
from lorapar.local.folder import RunFolder
from lorapar.records import read_json
from lorapar.stages.plan_file import read_plan
from lorapar.store import verify

if TYPE_CHECKING:
    from lorapar.adapter import SweepRow

THETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)


def swept(folder: Path) -> tuple[list[SweepRow], Path]:
    """A row for each of many thetas and the path of their plot; raises BadInputError where nothing has been scored."""
    from lorapar.adapter import load_scores, sweep
    from lorapar.report.elements import sweep_plot

    run = RunFolder(folder)
    scores = {}
    if run.record("plan") is None:
        raise BadInputError(f"{folder}: no scores of {SYSTEMS[0]} in it; `lorapar run --until score` makes them")
    config = read_plan(run.artifact("plan", "plan")).config
    for system in config.system_names:
        slot, file = slot_of(config.system_names, system)
        folder_of = run.artifact(f"score-{slot}", "scores")
        path = (folder_of if file == "examples.jsonl" else folder_of / system) / "scores.safetensors"
        if not config.adapter.is_partitioned:
            kind = config.adapter.kind
            raise BadInputError(f"{folder}: adapter.kind is {kind}, which is trained whole, so theta decides nothing")
        if not path.is_file():
            raise BadInputError(f"{folder}: no scores of {system} in it; `lorapar run --until score` makes them")
        verify(folder_of)
        scores[system], _ = load_scores(path)
    two = {"system1": config.partition.alpha, "system2": config.partition.beta}
    rows = sweep(scores, THETAS, shared=config.shared_fractions or two)
    plot = folder / "theta-sweep.svg"
    sweep_plot(rows, plot)
    return rows, plot


def partition_metrics(folder: Path) -> dict[str, int | float | str]:
    """Sizes, active fractions and Jaccard of the run's own partition."""
    path = RunFolder(folder).artifact("partition", "partition") / "summary.json"
    if not path.is_file():
        raise BadInputError(f"{folder}: no partition in it; `lorapar run --until partition` makes one")
    return {name: value for name, value in read_json(path).items() if isinstance(value, int | float | str)}


def partition_table(metrics: Mapping[str, int | float | str]) -> Table:
    """What `partition_metrics` gives, for people."""
    table = Table("metric", "value", box=None, header_style="bold")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    return table
