"""The table that benchmarks fill, and that a bound which is not kept is seen in it."""

from __future__ import annotations

import re
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
    ]
    assert [row.row for row in rows] == [
        "| stage rl | ≤ 0.6 | 102.00 s | 49.00 s | 0.48 |",
        "| scoring | ≥ 2 times as fast **missed** | 0.770 s | 0.550 s | 1.40 times as fast |",
        "| memory | ≤ 4.5 GB |  | 4.40 GB |  |",
        "| stage vote |  | 8.00 s | 4.00 s | 0.50 |",
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


def test_every_benchmark_is_named_in_the_docs() -> None:
    named = {name for page in DOCS.rglob("*.md") for name in re.findall(r"bench_\w+\.py", page.read_text("utf-8"))}
    assert named == {path.name for path in HERE.glob("bench_*.py")}
