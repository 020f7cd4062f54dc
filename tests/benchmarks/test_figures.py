"""The table that benchmarks fill, and that a bound which is not kept is seen in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import (
    HEAD,
    Bound,
    Figure,
    at_least,
    at_most,
    joined,
    not_measured,
    now_at_least,
    now_at_most,
    times_as_fast,
    within,
)

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


@pytest.mark.parametrize(
    ("bound", "kept", "missed"),
    [
        (at_most(0.6), (10, 6), (10, 6.1)),
        (at_least(0.9), (100, 90), (100, 89)),
        (within(0.15), (10, 11.5), (10, 8.4)),
        (times_as_fast(1.4), (14, 10), (13.9, 10)),
        (now_at_most(4.5), (None, 4.5), (3, 4.6)),
        (now_at_least(3), (None, 3), (3, 2)),
    ],
    ids=str,
)
def test_a_bound_is_kept_up_to_its_limit(
    bound: Bound, kept: tuple[float | None, float], missed: tuple[float | None, float]
) -> None:
    assert not Figure("what", *kept, bound).missed
    assert Figure("what", *missed, bound).missed


def test_a_ratio_with_nothing_to_compare_keeps_no_bound() -> None:
    assert Figure("what", None, 1, at_most(0.6)).missed
    assert Figure("what", 0, 1, times_as_fast(2)).missed
    assert not Figure("what", None, 1).missed


def test_rows_show_what_a_reader_of_the_docs_needs() -> None:
    rows = [
        Figure("stage rl", 102, 49, at_most(0.6)),
        Figure("scoring", 0.77, 0.55, times_as_fast(2)),
        Figure("memory", None, 4.4, now_at_most(4.5), unit="GB"),
        Figure("stage vote", 8, 4),
        Figure("a | b", 8, 4),
    ]
    assert [row.row for row in rows] == [
        "| stage rl | ≤ 0.6 | 102.00 s | 49.00 s | 0.48 |",
        "| scoring | ≥ 2 times as fast **missed** | 0.770 s | 0.550 s | 1.40 times as fast |",
        "| memory | ≤ 4.5 GB |  | 4.40 GB |  |",
        "| stage vote |  | 8.00 s | 4.00 s | 0.50 |",
        "| a \\| b |  | 8.00 s | 4.00 s | 0.50 |",
    ]


def test_processes_fill_one_table_one_after_another(tmp_path: Path) -> None:
    table = tmp_path / "runs" / "bench.md"
    joined(["| first | | | | |"], table)
    skipped = not_measured("bench_store.py::test_tree", "no server `weed`\nor a | b")
    text = joined([skipped], table)
    assert text == table.read_text(encoding="utf-8")
    machine, rows = text.split(HEAD)
    assert "processors" in machine
    assert rows == (
        "| first | | | | |\n| `bench_store.py::test_tree` | not measured: no server `weed` or a \\| b | | | |\n"
    )
    assert joined(["| alone | | | | |"], None) == f"{HEAD}| alone | | | | |\n"


BENCHMARKS = """
from tests.benchmarks.figures import now_at_most

def test_kept(figure):
    figure("kept", None, 1, now_at_most(2))

def test_breaks(figure):
    figure("before", None, 1, now_at_most(2))
    raise RuntimeError("broken")

def test_skips(figure):
    figure("alone", None, 1)
    __import__("pytest").skip("no server")

def test_misses(figure):
    figure("much", None, 3, now_at_most(2))

def test_breaks_at_once(figure):
    raise RuntimeError("broken")
"""


def test_a_benchmark_that_broke_after_a_figure_is_seen_in_the_table(tmp_path: Path) -> None:
    table = tmp_path / "bench.md"
    (tmp_path / "conftest.py").write_text("from tests.benchmarks.conftest import *\n", encoding="utf-8")
    (tmp_path / "bench_it.py").write_text(BENCHMARKS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), "bench_it.py"]
    paths = {"PYTHONPATH": str(HERE.parents[1]), "LORAPAR_BENCH_TABLE": str(table)}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert table.read_text(encoding="utf-8").split(HEAD)[1].splitlines() == [
        "| kept | ≤ 2 s |  | 1.00 s |  |",
        "| before | ≤ 2 s |  | 1.00 s |  |",
        "| `bench_it.py::test_breaks` | failed after these figures | | | |",
        "| alone |  |  | 1.00 s |  |",
        "| much | ≤ 2 s **missed** |  | 3.00 s |  |",
        "| `bench_it.py::test_breaks_at_once` | not measured: failed | | | |",
    ]


def test_every_benchmark_is_named_in_the_docs() -> None:
    named = {name for page in DOCS.rglob("*.md") for name in re.findall(r"bench_\w+\.py", page.read_text("utf-8"))}
    assert named == {path.name for path in HERE.glob("bench_*.py")}
