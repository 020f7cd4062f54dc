"""gate and promote on a registry and an evaluation made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorapar.errors import NotBetterError, StaleError
from lorapar.records import Answer, write_json, write_records
from lorapar.registry import Registry
from lorapar.store import open_store, seal

RIGHT = {"base": 5, "incumbent": 12, "after_rl": 30}
"""Rows of 40 that each model gets right."""


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Two versions of `maths`, nothing in production."""
    made = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        folder = tmp_path / f"adapter{number}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(f"weights {number}")
        made.publish("maths", folder)
    return made


def sealed(folder: Path, file: str, value) -> Path:
    folder.mkdir()
    write_json(folder / file, value)
    seal(folder, "test")
    return folder


def version(registry: Registry, folder: Path, incumbent: int | None) -> Path:
    """What publish leaves for version 2."""
    beaten = registry.resolve(f"maths@{incumbent}") if incumbent else None
    about = {"version": beaten.number, "digest": beaten.digest} if beaten else None
    digest = registry.resolve("maths@2").digest
    found = {"registry": registry.address, "name": "maths", "version": 2, "digest": digest, "incumbent": about}
    return sealed(folder, "version.json", found)


@pytest.fixture
def evaluation(tmp_path) -> Path:
    """Every model's answers to 40 rows of each system."""
    answers = [
        Answer(example_id=f"{system}{n}", system=system, model=model, text="", tokens=1, loss=1.0, strict=n < right)
        for model, right in RIGHT.items()
        for system in ("system1", "system2")
        for n in range(40)
    ]
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write_records(folder / "answers.jsonl", answers)
    seal(folder, "execute.evaluation")
    return folder


def judged(kit, evaluation, published, out, **gate):
    metrics, made = kit.run("gate", out, {"gate": gate}, {"evaluation": evaluation, "version": published})
    return metrics, made / "verdict"


@pytest.mark.parametrize(("incumbent", "share"), [(None, 5 / 40), (1, 12 / 40)])
def test_the_candidate_is_judged_against_what_was_in_production(
    kit, registry, evaluation, tmp_path, incumbent, share
) -> None:
    published = version(registry, tmp_path / "version", incumbent)
    metrics, folder = judged(kit, evaluation, published, tmp_path / "gate")
    verdict = json.loads((folder / "verdict.json").read_text())
    assert (metrics["better"], metrics["promote"], metrics["rows"]) == (1, 1, 80)
    assert verdict["figures"]["gain"]["incumbent"] == share
    assert verdict["figures"]["gain"]["candidate"] == 30 / 40
    assert (verdict["incumbent"] or {"version": None})["version"] == incumbent
    assert registry.verdicts(registry.resolve("maths@2")) == [verdict]


def test_not_better_is_a_result_and_promotion_may_be_off(kit, registry, evaluation, tmp_path) -> None:
    published = version(registry, tmp_path / "version", 1)
    metrics, folder = judged(kit, evaluation, published, tmp_path / "gate", minimum_gain=0.9)
    assert (metrics["better"], metrics["promote"]) == (0, 0)
    with pytest.raises(NotBetterError, match="production stays where it is"):
        kit.run("promote", tmp_path / "promote", {}, {"verdict": folder, "version": published})
    metrics, _ = judged(kit, evaluation, published, tmp_path / "off", promote=False)
    assert (metrics["better"], metrics["promote"]) == (1, 0)
    assert len(registry.verdicts(registry.resolve("maths@2"))) == 2
    assert registry.read_alias("maths", "production") is None


def promoted(kit, registry, evaluation, tmp_path, incumbent, out):
    published = version(registry, tmp_path / f"{out}-version", incumbent)
    _, verdict = judged(kit, evaluation, published, tmp_path / f"{out}-gate")
    _, made = kit.run("promote", tmp_path / out, {}, {"verdict": verdict, "version": published})
    return json.loads((made / "promotion" / "promotion.json").read_text())


def test_production_moves_and_a_retried_pod_changes_nothing(kit, registry, evaluation, tmp_path) -> None:
    registry.move_alias("maths", "production", 1, expected=None)
    found = promoted(kit, registry, evaluation, tmp_path, 1, "first")
    assert (found["promoted"], found["previous"], found["version"]) == (True, 1, 2)
    record = registry.read_alias("maths", "production")
    assert record.reason.startswith("gate: system1 + system2: right on 75.0% of 80 rows")
    assert promoted(kit, registry, evaluation, tmp_path, 1, "again")["promoted"]
    assert registry.read_alias("maths", "production") == record


@pytest.mark.parametrize("seen", [None, 1])
def test_a_stale_gate_changes_nothing(kit, registry, evaluation, tmp_path, seen) -> None:
    folder = tmp_path / "adapter3"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text("weights 3")
    registry.publish("maths", folder)
    registry.move_alias("maths", "production", 3, expected=None)
    with pytest.raises(StaleError, match="gate stale: maths@production names version 3"):
        promoted(kit, registry, evaluation, tmp_path, seen, "late")
    assert registry.read_alias("maths", "production").version == 3


def test_what_a_person_rolled_back_is_not_put_back_by_a_run(kit, registry, evaluation, tmp_path) -> None:
    registry.move_alias("maths", "production", 1, expected=None)
    promoted(kit, registry, evaluation, tmp_path, 1, "first")
    registry.move_alias("maths", "production", 1, expected=2, rollback=True, reason="bad answers")
    found = promoted(kit, registry, evaluation, tmp_path, 1, "again")
    assert not found["promoted"]
    assert "rolled back" in found["reason"]
    assert registry.read_alias("maths", "production").version == 1


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "peft", "trl", "datasets", "accelerate"]))
from lorapar.cli import main
main()
"""


def test_gate_and_promote_run_where_there_is_no_torch(kit, registry, evaluation, tmp_path) -> None:
    """As in the client image: what is None in sys.modules cannot be imported."""
    published = version(registry, tmp_path / "version", None)
    steps = {
        "gate": ["evaluation", evaluation, "verdict"],
        "promote": ["verdict", tmp_path / "made" / "verdict", "promotion"],
    }
    for stage, (name, folder, output) in steps.items():
        result = subprocess.run(
            [
                *(sys.executable, "-c", WITHOUT_TORCH, "stage", stage),
                *("--input", f"{name}={folder}", "--input", f"version={published}"),
                *("--output", f"{output}={tmp_path / 'made' / output}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert registry.resolve("maths").number == 2
