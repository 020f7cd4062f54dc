"""The stage rl: goes on from what sft made, with the paper's rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lorapar.errors import BadInputError

FAST = {
    "batch_size": 4,
    "gradient_accumulation": 2,
    "num_generations": 4,
    "max_steps": 2,
    "max_prompt_length": 200,
    "max_completion_length": 8,
}


@pytest.fixture
def inputs(kit, adapter: Path, partition: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        "adapter": adapter,
        "partition": partition,
        "system1": kit.rows_folder(tmp_path / "system1", kit.words(4)),
        "system2": kit.rows_folder(tmp_path / "system2", kit.sums(4)),
    }


def test_goes_on_from_the_adapter_of_sft(kit, inputs: dict[str, Path], tmp_path: Path) -> None:
    sft = {"model": kit.TINY, "prompts": {}, "sft": {"max_steps": 1, "gradient_accumulation": 2}, "seed": 0}
    _, tuned = kit.run("sft", tmp_path / "sft", sft, inputs)
    notes = kit.Notes()
    settings = {"model": kit.TINY, "prompts": {}, "rl": FAST, "seed": 0}
    metrics, out = kit.run("rl", tmp_path / "rl", settings, {**inputs, "adapter": tuned / "adapter"}, notes)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["steps"] == 2
    assert len((out / "adapter" / "history.jsonl").read_text().splitlines()) == 2
    assert json.loads((out / "adapter" / "summary.json").read_text())["reward_weights"]["exact_answer"] == 2.0
    # A random model earns nothing, and the stage says that it learned nothing from it.
    assert metrics["steps_without_signal"] == 2
    assert sum("all completions of each prompt had the same reward" in line for line in notes.lines) == 1


def test_a_faulty_reward_is_refused_before_anything_is_loaded(kit, inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = {"model": kit.TINY, "prompts": {}, "rl": {**FAST, "rewards": {"nowhere:at_all": 1.0}}, "seed": 0}
    with pytest.raises(BadInputError, match="nowhere:at_all cannot be imported"):
        kit.run("rl", tmp_path / "rl", settings, inputs)
