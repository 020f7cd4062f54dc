"""Runs on one registry: the first is better than the base, a repeat moves nothing, an equal one is not promoted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lorapar.config import RunConfig, load_config
from lorapar.errors import StaleError
from lorapar.local.folder import RunFolder
from lorapar.local.runner import run_local
from lorapar.registry import Registry
from lorapar.registry.check import check
from lorapar.registry.overview import lineage_of
from lorapar.registry.why import reproducing_settings
from lorapar.stages import gate
from lorapar.store import open_store
from tests.local.test_run import Spoken


def settings(root: Path, *more: str) -> RunConfig:
    """Every answer is the same letter, which even the tiny model learns."""
    return load_config(
        preset="tiny",
        overrides=(
            f"data.source={root / 'rows.jsonl'}",
            "data.columns={reference: reference}",
            "data.heldout=30",
            "prompts.system2=null",
            *("sft.rows=all", "sft.warmup_system2_examples=0", "sft.max_steps=40", "sft.learning_rate=2e-2"),
            *("rl.learning_rate=1e-5", f"registry.address={root / 'adapters'}"),
            *more,
        ),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and a finished run; look, do not touch."""
    folder = tmp_path_factory.mktemp("promotion")
    rows = [{"question": f"say it {n}", "answer": "a", "reference": "a"} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_local(settings(folder), folder / "run", Spoken())
    return folder


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """The same, for tests that change it."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def verdict_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["verdict"]


def test_a_run_that_is_better_than_the_base_is_promoted(root) -> None:
    verdict = verdict_of(root / "run")
    assert (verdict["better"], verdict["promoted"], verdict["incumbent"]) == (True, True, None)
    assert verdict["gain"]["wins"] > 20
    registry = Registry(open_store(root / "adapters"))
    assert registry.resolve("tiny").number == registry.resolve("tiny@candidate").number == 1
    assert registry.claim(registry.resolve("tiny@1")).run == str(root / "run")
    assert "is better than the base model" in (root / "run" / "report.html").read_text()


def test_the_same_run_again_evaluates_nothing_and_moves_nothing(root, copy) -> None:
    registry = Registry(open_store(copy / "adapters"))
    before = registry.read_alias("tiny", "production")
    spoken = Spoken()
    folder = run_local(settings(root, f"registry.address={copy / 'adapters'}"), copy / "run", spoken)
    assert spoken.ran() == {"plan", "publish", "gate", "promote", "report"}
    assert any("verified when it came" in line for line in spoken.lines["publish"])
    assert registry.read_alias("tiny", "production") == before
    verdict = verdict_of(folder.root)
    assert (verdict["better"], verdict["promoted"], verdict["incumbent"]) == (True, True, None)


def test_a_damaged_version_is_made_whole_by_the_run_that_published_it(root, copy) -> None:
    registry = Registry(open_store(copy / "adapters"))
    folder = copy / "adapters" / "adapters" / "tiny" / "1"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    weights = before["adapter_model.safetensors"]
    (folder / "adapter_model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (folder / "README.md").unlink()
    assert [found.fault is None for found in check(registry, "tiny@1")] == [False]
    spoken = Spoken()
    run_local(settings(root, f"registry.address={copy / 'adapters'}"), copy / "run", spoken)
    assert (
        "tiny@1 was damaged in the registry and is whole again: README.md, adapter_model.safetensors"
        in (spoken.lines["publish"])
    )
    assert [found.fault for found in check(registry, None)] == [None]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert registry.versions("tiny") == [1]
    assert "tiny@production already names version 1; nothing changed" in spoken.lines["promote"]


def test_an_adapter_no_better_than_the_one_in_production_is_published_but_not_promoted(root, copy) -> None:
    spoken = Spoken()
    changed = settings(root, f"registry.address={copy / 'adapters'}", "rl.learning_rate=2e-5")
    folder = run_local(changed, copy / "run", spoken)
    registry = Registry(open_store(copy / "adapters"))
    assert registry.versions("tiny") == [1, 2]
    assert registry.resolve("tiny@candidate").number == 2
    assert registry.resolve("tiny").number == 1
    verdict = verdict_of(folder.root)
    assert (verdict["better"], verdict["promoted"], verdict["incumbent"]) == (False, False, 1)
    assert "for the incumbent" in verdict["reasons"][0]
    assert spoken.lines["promote"] == ["not run: gate decided against it"]
    assert RunFolder(copy / "run").record("promote") is None, "the earlier run's promotion is not this one's"


def test_the_settings_that_why_gives_make_the_same_version_again(root, copy, tmp_path) -> None:
    registry = Registry(open_store(copy / "adapters"))
    file = tmp_path / "again.yaml"
    file.write_text(reproducing_settings(lineage_of(registry, registry.resolve("tiny"))))
    again = load_config(file=file, overrides=[f"registry.address={copy / 'adapters'}"])
    run_local(again, tmp_path / "elsewhere", Spoken(), until="publish")
    assert registry.versions("tiny") == [1]
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "elsewhere" / adapter).read_bytes() == (root / "run" / adapter).read_bytes()


def test_production_that_moves_while_a_run_is_judged_stops_it_and_stays(root, copy, tmp_path, monkeypatch) -> None:
    registry, judged = Registry(open_store(tmp_path / "fresh")), gate.run

    def somebody_promotes_meanwhile(call):
        found = judged(call)
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "adapter_model.safetensors").write_text("theirs")
        registry.move_alias("tiny", "production", registry.publish("tiny", tmp_path / "theirs").number, expected=None)
        return found

    monkeypatch.setattr(gate, "run", somebody_promotes_meanwhile)
    with pytest.raises(StaleError, match=r"gate stale: tiny@production names version 2, not no version"):
        run_local(settings(root, f"registry.address={tmp_path / 'fresh'}"), copy / "run", Spoken())
    assert registry.resolve("tiny").number == 2
    verdict = verdict_of(copy / "run")
    assert (verdict["better"], verdict["promoted"]) == (True, False)
