"""Runs as they lie in a folder and in a store, with made-up figures under the real keys, and a registry."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorapar.config import RunConfig
from lorapar.local.live import LiveNode
from lorapar.registry import Registry
from lorapar.store import open_store

Make = Callable[..., Path]


def metrics(name: str, accuracy: float | None = 0.5, **more: Any) -> dict[str, Any]:
    """metrics.json of a run that moved System 2 up; its losses alone where there is no reference."""

    def model(better: float) -> dict[str, Any]:
        shares = {
            f"{system}_accuracy": None if accuracy is None else accuracy + better for system in ("system1", "system2")
        }
        return {**shares, "system1_loss": 2.0 - better, "system2_loss": 3.0 - better}

    verdict = {"better": True, "reasons": ["system2 rose"], "incumbent": 3, "promoted": True}
    timings = [{"node": "sft", "seconds": 60.0}, {"node": "rl", "seconds": 65.0}]
    return {
        "name": name, "seed": 7, "model": "org/base", "base": model(0.0), "after_sft": model(0.1),
        "after_rl": model(0.25), "verdict": verdict, "timings": timings, **more,
    }  # fmt: skip


def settings(**changes: Any) -> dict[str, Any]:
    """Every setting, as a plan keeps it."""
    return RunConfig.model_validate({"model": {"name": "org/base"}, **changes}).model_dump(mode="json")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def folder_run(root: Path) -> Make:
    """Writes a run folder: folder_run("mine", figures(...), settings(...), LiveNode(...))."""

    def make(
        run: str,
        found: dict[str, Any] | None = None,
        planned: dict[str, Any] | None = None,
        live: LiveNode | None = None,
    ) -> Path:
        folder = root / run
        write(folder / "stages" / "plan" / "plan" / "plan.json", {"config": planned or settings()})
        if found is not None:
            write(folder / "metrics.json", found)
            (folder / "report.html").write_text(
                f"<!doctype html><title>{run}</title><p>report of {run}", encoding="utf-8"
            )
        if live is not None:
            write(folder / "live.json", live.model_dump(mode="json"))
        return folder

    return make


def store_run(store: Path, run: str, outcome: dict[str, Any] | None, found: dict[str, Any] | None = None) -> Path:
    """What a pipeline's run leaves in a store."""
    folder = store / "runs" / run
    write(folder / "plan.json", {"plan": {"config": settings()}, "lanes": {}})
    if found is not None:
        write(folder / "metrics.json", found)
        (folder / "report.html").write_text(f"<!doctype html><p>report of {run}", encoding="utf-8")
    if outcome is not None:
        write(folder / "outcome.json", {"run": run, "name": "nightly", **outcome})
    return folder


def age(folder: Path, seconds: float) -> None:
    """Make every file of a folder that old."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions of `assistant`; production moved to the second one and back."""
    made = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        folder = tmp_path / f"adapter{number}"
        folder.mkdir()
        write(folder / "adapter_config.json", {"r": 4, "peft_type": "LORA"})
        save_file({"lora_A": torch.full((2, 2), float(number))}, folder / "adapter_model.safetensors")
        made.publish("assistant", folder)
    made.set_alias("assistant", "production", 1, reason="the first")
    made.set_alias("assistant", "production", 2, reason="better than version 1")
    made.move_alias("assistant", "production", 1, expected=2, reason="answers <b>too</b> long", rollback=True)
    return made
