"""The stage rl: goes on from what sft made, with the paper's rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorapar.adapter import Partition, load_scores, partition_elements, trainable_slice
from lorapar.adapter.files import read_tensors
from lorapar.config.training import trained_in
from lorapar.errors import BadInputError
from lorapar.store import seal
from lorapar.training.candidates import candidates_in

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


@pytest.fixture
def ordered(kit, inputs: dict[str, Path], tmp_path: Path):
    """The adapter that both nodes of training come to, for an order of phases; and its folder of RL."""
    base = {"model": kit.TINY, "prompts": {}, "seed": 0}
    sft = {"max_steps": 2, "gradient_accumulation": 1, "learning_rate": 1e-2}
    rl = {**FAST, "kl_beta": 0.1, "rewards": {"tests.stages.test_rl:longer": 1.0}, "learning_rate": 1e-2}

    def train(*phases: str):
        out = tmp_path / "-".join(phases)
        first = {**base, "sft": sft, "trains": trained_in("sft", phases)}
        last = {**base, "rl": rl, "sft": sft, "trains": trained_in("rl", phases)}
        # As `plan` has it: the node that trains last keeps candidates.
        (last if last["trains"] else first)["candidates"] = 0 if phases == ("sft+rl",) else 2
        _, tuned = kit.run("sft", out / "sft", first, inputs)
        notes = kit.Notes()
        metrics, made = kit.run("rl", out / "rl", last, {**inputs, "adapter": tuned / "adapter"}, notes)
        return SimpleNamespace(tensors=read(made / "adapter"), folder=made / "adapter", metrics=metrics, notes=notes)

    return train


def longer(completions, references):
    """A reward that a random model can earn, in parts."""
    return [len(set(text)) / 10 for text in completions]


def read(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "adapter_model.safetensors")[0]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], masks) -> tuple[bool, bool]:
    """Whether anything moved within a mask, and outside of it; the adapter's second half of ranks is always frozen."""
    inside = outside = False
    for name, old in before.items():
        changed = trainable_slice(name, old != after[name], 2)
        assert bool((old != after[name]).sum() == changed.sum())
        inside |= bool((changed & masks[name]).any())
        outside |= bool((changed & ~masks[name]).any())
    return inside, outside


def test_every_order_moves_only_what_its_phases_may(ordered, adapter: Path, partition: Path) -> None:
    start = read(adapter)
    one, two = (Partition.load(partition / "partition.safetensors").mask(name) for name in ("system1", "system2"))
    either = {name: mask | two[name] for name, mask in one.items()}
    only_sft, only_rl = ordered("sft"), ordered("rl")
    assert moved(start, only_sft.tensors, one) == (True, False)
    assert moved(start, only_rl.tensors, two) == (True, False)
    assert not (only_sft.folder / "history.jsonl").exists()
    assert "trains nothing: phases has no RL" in only_sft.notes.lines
    turned, together = ordered("rl", "sft"), ordered("sft+rl")
    assert moved(only_rl.tensors, turned.tensors, one) == (True, False), "SFT began where RL had ended"
    assert moved(start, together.tensors, either) == (True, False)
    for name, now in together.tensors.items():
        first, second = only_sft.tensors[name], only_rl.tensors[name]
        assert torch.equal(now[second == start[name]], first[second == start[name]])
        assert torch.equal(now[first == start[name]], second[first == start[name]])
        assert torch.allclose(now - start[name], (first - start[name]) + (second - start[name]), atol=1e-6)
    assert len((turned.folder / "sft_history.jsonl").read_text().splitlines()) == 2
    assert json.loads((turned.folder / "summary.json").read_text())["sft"]["system"] == "system1"
    assert (turned.metrics["steps"], turned.metrics["sft_steps"]) == (2, 2)
    for run, begun, mask in ((only_sft, start, one), (only_rl, start, two), (turned, only_rl.tensors, one)):
        ((step, kept),) = candidates_in(run.folder).items()
        assert step == 1, "of two steps of the last phase, whichever node made them"
        assert moved(begun, read(kept), mask) == (True, False)
    assert candidates_in(together.folder) == {}


def test_a_phase_that_has_ended_is_kept_when_the_next_one_fails(kit, inputs, tmp_path: Path, monkeypatch) -> None:
    settings = {"model": kit.TINY, "prompts": {}, "rl": FAST, "seed": 0, "trains": ["rl", "sft"]}
    short = {"max_steps": 1, "gradient_accumulation": 2}
    notes = kit.Notes()
    with pytest.raises(BadInputError, match=r"sft.max_length is 1"):
        kit.run("rl", tmp_path / "rl", {**settings, "sft": {**short, "max_length": 1}}, inputs, notes)
    kit.run("rl", tmp_path / "rl", {**settings, "sft": short}, inputs, notes)
    assert "the phase rl has ended before and is kept" in notes.lines


def test_scores_again_what_sft_left_and_trains_the_new_partition(kit, inputs: dict[str, Path], tmp_path: Path) -> None:
    """A larger theta the second time: more elements than the first partition has may move."""
    rl = {**FAST, "score_again": True, "rewards": {"tests.stages.test_rl:longer": 1.0}, "learning_rate": 1e-2}
    again = {"score": {"examples": 4}, "partition": {"theta": 0.99}}
    settings = {"model": kit.TINY, "prompts": {}, "rl": rl, "seed": 0, **again}
    metrics, out = kit.run("rl", tmp_path / "rl", settings, inputs)
    fresh = Partition.load(out / "adapter" / "partition.safetensors")
    assert metrics["active_elements"] == fresh.sizes()["system2"].active
    assert (
        fresh.sizes()["system2"].active
        > Partition.load(inputs["partition"] / "partition.safetensors").sizes()["system2"].active
    )
    assert moved(read(inputs["adapter"]), read(out / "adapter"), fresh.mask("system2")) == (True, False)
    message = json.loads((out / "adapter" / "summary.json").read_text())["scored_again"]
    assert message["rank_correlation"]["system2"] == pytest.approx(1, abs=1e-3), "the start itself was scored again"
    assert message["jaccard"]["system2"] < 1


def by_question(completions, references):
    """The first row is never solved, the second always, the others half of the time."""
    known = {"2": 0.0, "3": 1.0}
    return [known.get(reference, float(place % 2)) for place, reference in enumerate(references)]


def test_filter_trains_on_rows_that_are_neither_always_nor_never_solved(kit, inputs, tmp_path: Path) -> None:
    rl = {**FAST, "filter": {"samples": 2}, "rewards": {"tests.stages.test_rl:by_question": 1.0}}
    settings = {"model": kit.TINY, "prompts": {}, "rl": {**rl, "learning_rate": 1e-2}, "seed": 0}
    notes = kit.Notes()
    metrics, out = kit.run("rl", tmp_path / "rl", settings, inputs, notes)
    assert [metrics[f"filter_{name}"] for name in ("rows", "never", "always", "kept")] == [4, 1, 1, 2]
    assert metrics["rows"] == 2
    kept = [json.loads(line) for line in (out / "adapter" / "pass_rates.jsonl").read_text().splitlines()]
    assert [row["solved"] for row in kept] == [0, 2, 1, 1]
    summary = json.loads((out / "adapter" / "summary.json").read_text())
    assert [bar["rows"] for bar in summary["filter"]["histogram"]] == [1, 2, 1]
    assert sum("rows left out by rl.filter" in one["what"] for one in summary["omissions"]) == 2
    learned = {json.loads(line)["id"] for line in (out / "adapter" / "rollouts.jsonl").read_text().splitlines()}
    assert learned <= {row["id"] for row in kept[2:]}
    assert any(line.startswith("1 of 4 rows left out by rl.filter: none of 2 completions") for line in notes.lines)


def test_filter_asks_as_a_system_of_your_own_is_trained(kit, inputs, scores, tmp_path: Path) -> None:
    """The partition knows no other systems than those that the settings name."""
    names = ("facts", "sums")
    found = {
        name: load_scores(folder / "scores.safetensors")[0] for name, folder in zip(names, scores.values(), strict=True)
    }
    made = tmp_path / "named"
    made.mkdir()
    partition_elements(found, theta=0.9, shared=dict.fromkeys(names, 1.0)).save(made / "partition.safetensors", {})
    seal(made, "partition.partition")
    rl = {**FAST, "filter": {"samples": 2}, "rewards": {"tests.stages.test_rl:by_question": 1.0}}
    named = {"system_names": names, "trains": [{"system": "sums", "method": "rl"}]}
    settings = {"model": kit.TINY, "prompts": {}, "rl": {**rl, "learning_rate": 1e-2}, "seed": 0, **named}
    metrics, out = kit.run("rl", tmp_path / "rl", settings, {**inputs, "partition": made})
    assert metrics["filter_kept"] == 2
    assert json.loads((out / "adapter" / "summary.json").read_text())["system"] == "sums"
    assert (out / "adapter" / "pass_rates.jsonl").is_file()
