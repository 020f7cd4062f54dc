"""Calling one stage the way the local runner does: verified folders in, sealed folders out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lorapar.progress import Silent
from lorapar.records import Example, write_records
from lorapar.stages.contract import Metrics, StageCall, run_stage, stage_spec
from lorapar.store import seal, verify
from tests.notes import Notes

TINY = {"name": "builtin:tiny", "dtype": "float32"}
ADAPTER = {"rank": 2, "alpha": 4.0}
SCORE = {"examples": 4, "also": ["gradient", "magnitude"]}


def call_stage(
    name: str,
    out: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    progress: Silent | None = None,
    **shared: Any,
) -> tuple[Metrics, Path]:
    """Run a stage into `out/<output>`; returns its metrics and `out`. `out/scratch` outlives a failed call."""
    spec = stage_spec(name)
    folders = {key: value if isinstance(value, tuple) else (value,) for key, value in (inputs or {}).items()}
    assert set(folders) == {*spec.inputs, *spec.many}
    for folder in (one for many in folders.values() for one in many):
        verify(folder)
    for made in ("scratch", *spec.outputs):
        (out / made).mkdir(parents=True, exist_ok=True)
    call = StageCall(
        settings=spec.settings.model_validate(dict(settings)),
        inputs=folders,
        outputs={output: out / output for output in spec.outputs},
        scratch=out / "scratch",
        progress=progress or Silent(),
        **shared,
    )
    metrics = run_stage(name, call)
    for output in spec.outputs:
        seal(out / output, f"{name}.{output}")
    return metrics, out


def rows_folder(folder: Path, examples: list[Example], file: str = "examples.jsonl") -> Path:
    """A sealed artifact with rows in it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / file, examples)
    seal(folder, "test.rows")
    return folder


def words(count: int, split: str = "train") -> list[Example]:
    """System 1 rows."""
    return [
        Example(id=f"w{split}{n:03}", question=f"What is a b{n}?", answer="tool", reference="tool", split=split)
        for n in range(count)
    ]


def sums(count: int, split: str = "train") -> list[Example]:
    """System 2 rows."""
    return [
        Example(
            id=f"s{split}{n:03}",
            question=f"{n}+2?",
            answer=f"<reasoning>{n}+2={n + 2}</reasoning><answer>{n + 2}</answer>",
            reference=str(n + 2),
            split=split,
        )
        for n in range(count)
    ]


class Kit:
    """What the tests of stages use, as one fixture, because test files cannot import each other."""

    TINY = TINY
    ADAPTER = ADAPTER
    Notes = Notes
    run = staticmethod(call_stage)
    rows_folder = staticmethod(rows_folder)
    words = staticmethod(words)
    sums = staticmethod(sums)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    """Helpers: run a stage, make rows and folders of rows."""
    return Kit


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What init makes of the tiny model."""
    out = tmp_path_factory.mktemp("init")
    return call_stage("init", out, {"model": TINY, "adapter": ADAPTER, "seed": 0})[1] / "adapter"


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> dict[str, Path]:
    """What score makes of both systems."""
    made = {}
    for system, rows in (("system1", words(4)), ("system2", sums(4))):
        root = tmp_path_factory.mktemp(system)
        settings = {"model": TINY, "prompts": {}, "score": SCORE, "seed": 0, "system": system}
        inputs = {"adapter": adapter, "rows": rows_folder(root / "rows", rows)}
        made[system] = call_stage("score", root, settings, inputs)[1] / "scores"
    return made


@pytest.fixture(scope="session")
def partition(tmp_path_factory: pytest.TempPathFactory, scores: dict[str, Path]) -> Path:
    """What partition makes of these scores."""
    inputs = {"scores": tuple(scores.values())}
    return (
        call_stage("partition", tmp_path_factory.mktemp("partition"), {"partition": {}, "seed": 0}, inputs)[1]
        / "partition"
    )
