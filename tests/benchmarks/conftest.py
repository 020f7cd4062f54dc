"""What every benchmark has: `figure`, which names a figure and its bound, and the table of all of them at the end.

LORAPAR_BENCH_TABLE names a file for the table. Rows are added to it, so that several processes can fill it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.figures import Bound, Figure, failed_after, joined, not_measured

FIGURES = pytest.StashKey[dict[str, list[Figure]]]()
"""By the test that measured them."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = {}


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., Figure]:
    """Records a figure of this test, which fails at its end if any of its figures misses its bound."""
    own = request.config.stash[FIGURES].setdefault(request.node.nodeid, [])

    def record(what: str, earlier: float | None, now: float, bound: Bound | None = None, unit: str = "s") -> Figure:
        own.append(Figure(what, earlier, now, bound, unit))
        print(f"\n{own[-1].row}", flush=True)
        return own[-1]

    return record


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """After a test, so that a missed bound keeps none of its other figures out of the table."""
    yield
    missed = [one.row for one in item.config.stash[FIGURES].get(item.nodeid, []) if one.missed]
    assert not missed, "\n".join(["bounds that were not kept:", *missed])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of this session, or of all that wrote into the same file."""
    figures = config.stash[FIGURES]
    rows: list[str] = []
    for nodeid, found in figures.items():
        rows += [one.row for one in found]
        if found and not any(one.missed for one in found) and _failed(terminalreporter, nodeid):
            rows.append(failed_after(_name(nodeid)))
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            name = _name(report.nodeid)
            if name.startswith("bench_") and not figures.get(report.nodeid):
                rows.append(not_measured(name, _why(report, outcome)))
    if rows:
        named = os.environ.get("LORAPAR_BENCH_TABLE")
        terminalreporter.section("figures")
        terminalreporter.write(joined(rows, Path(named) if named else None))


def _failed(terminalreporter: Any, nodeid: str) -> bool:
    """Whether a test, or what it leaves behind, failed; a bound that is missed is one way of several."""
    return any(one.nodeid == nodeid for how in ("failed", "error") for one in terminalreporter.stats.get(how, []))


def _name(nodeid: str) -> str:
    return nodeid.rsplit("/", 1)[-1]


def _why(report: Any, outcome: str) -> str:
    skipped = isinstance(report.longrepr, tuple)
    return str(report.longrepr[2]).removeprefix("Skipped: ") if skipped else outcome
