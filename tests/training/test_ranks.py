"""Several processes learn what one learns from the same rows: losses, adapter, and what stays frozen."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from peft import PeftModel
from torch.utils.data import BatchSampler

from lorapar.adapter import AdapterSettings, attach
from lorapar.adapter.folder import save_adapter
from lorapar.basemodel import load_model
from lorapar.config import RlConfig, SftConfig
from lorapar.training.ranks import FilledSampler
from lorapar.training.rl import train_rl
from lorapar.training.shares import best_share, share_of
from lorapar.training.trainers import CarefulSFTTrainer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def begun(kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter without dropout, whose random numbers would be others in each process, and a partition."""
    folder = tmp_path_factory.mktemp("begun")
    model = attach(load_model(kit.TINY), AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0)
    save_adapter(model, folder / "adapter")
    partition = kit.random_partition(model, shared={"system1": 1.0, "system2": 1.0})
    partition.save(folder / "partition.safetensors", {})
    return folder


@pytest.fixture(scope="module")
def alone(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        one_rank = importlib.import_module("one_rank")
        patch.setattr(one_rank.CarefulGRPOTrainer, "_generate_single_turn", None)  # put back afterwards
        one_rank.train(root, begun)
    return root


@pytest.fixture(scope="module")
def several(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make, in `2/`, and four, in `4/`."""
    root = tmp_path_factory.mktemp("several")
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "one_rank.py"), str(root), str(begun), "4", "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.mark.parametrize(
    ("count", "run", "system"),
    [
        *((2, "sft", "system1"), (2, "rows", "system1"), (2, "rl", "system2")),
        *((4, "rows", "system1"), (4, "rl", "system2")),
    ],
)
def test_several_processes_learn_what_one_learns(
    kit, begun: Path, alone: Path, several: Path, count: int, run: str, system: str
) -> None:
    made_by = several / str(count) / run
    ours, theirs = made_by / "rank0", alone / run / "rank0"
    steps, expected = (
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] for folder in (ours, theirs)
    )
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in expected], rel=1e-6, abs=1e-6)
    assert len(steps) == 5
    before, made, wanted = kit.tensors(begun / "adapter"), kit.tensors(ours), kit.tensors(theirs)
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=1e-6)
    assert max((wanted[name] - before[name]).abs().max() for name in before) > 1e-4
    job = SimpleNamespace(adapter=begun / "adapter", partition=begun / "partition.safetensors", output=ours)
    moved, active = kit.changed(job, system)
    assert moved.any()
    assert not moved[~active].any()
    if run == "rl":
        rollouts = [json.loads(line)["step"] for line in (ours / "rollouts.jsonl").read_text().splitlines()]
        assert sorted(set(rollouts)) == [1, 2, 3, 4, 5]
    for rank in range(1, count):
        others = kit.tensors(made_by / f"rank{rank}")
        assert all(torch.equal(others[name], made[name]) for name in made)
    assert json.loads((ours / "summary.json").read_text())["processes"] == count


@pytest.mark.parametrize("before", [1, 4])
def test_two_processes_go_on_with_what_one_or_four_began(kit, alone: Path, several: Path, before: int) -> None:
    ended = [path.read_text() for path in (several / str(before)).glob("stopped/rank*/ended.txt")]
    assert ended == ["Terminated: "] * before
    made = several / "2" / f"from-{before}" / "rank0"
    steps, expected = (
        [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (made, alone / "sft" / "rank0")
    )
    assert steps == pytest.approx(expected, rel=1e-6, abs=1e-6)
    found = kit.tensors(made)
    for name, tensor in kit.tensors(alone / "sft" / "rank0").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("run", ["sft", "rl"])
def test_a_sharded_base_gives_the_adapter_of_a_whole_one(
    kit, begun: Path, alone: Path, several: Path, run: str
) -> None:
    """FSDP2 reduces no gradient of what it does not shard; if nobody did, the processes' adapters would differ."""
    ours, theirs = several / "2" / f"{run}-sharded" / "rank0", alone / run / "rank0"
    steps, expected = (
        [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (ours, theirs)
    )
    assert steps == pytest.approx(expected, rel=1e-6, abs=1e-6)
    made, wanted = kit.tensors(ours), kit.tensors(theirs)
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=1e-6)
    other = kit.tensors(ours.with_name("rank1"))
    assert all(torch.equal(other[name], made[name]) for name in made)
    job = SimpleNamespace(adapter=begun / "adapter", partition=begun / "partition.safetensors", output=ours)
    moved, active = kit.changed(job, "system1" if run == "sft" else "system2")
    assert moved.any()
    assert not moved[~active].any()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (ours, theirs)]
    for key in ("base_weights_sha256", "moment_bytes", "active_elements"):
        assert summaries[0][key] == summaries[1][key]
    PeftModel.from_pretrained(load_model(kit.TINY), ours)


def test_each_process_holds_its_part_of_a_sharded_base(kit, several: Path) -> None:
    held = [int((several / "2" / f"held-{rank}").read_text()) for rank in (0, 1)]
    whole = sum(one.numel() for one in load_model(kit.TINY).parameters())
    assert sum(held) == whole
    assert max(held) < 0.6 * whole


def test_a_sharded_base_samples_for_itself(kit, several: Path) -> None:
    folders = [several / "2" / "rl-sampled" / f"rank{rank}" for rank in (0, 1)]
    first, second = (kit.tensors(folder) for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    lengths = [json.loads(line)["tokens"] for line in (folders[0] / "rollouts.jsonl").read_text().splitlines()]
    assert lengths
    assert max(lengths) <= 8


def test_sigterm_to_one_process_ends_all_after_the_same_step(several: Path) -> None:
    stopped = several / "2" / "stopped"
    assert [(stopped / f"rank{rank}" / "ended.txt").read_text() for rank in (0, 1)] == ["Terminated: "] * 2
    (kept,) = stopped.glob("scratch/checkpoint-*")
    assert kept.name in ("checkpoint-3", "checkpoint-4")
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] == int(kept.name[-1])


def test_a_reward_that_fails_in_one_process_fails_in_all_and_one_process_goes_on(
    kit, begun: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = several / "2" / "failed"
    kept = "(at step 3); the state after step 2 is kept and the same command goes on from there"
    other, first = ((failed / f"rank{rank}" / "ended.txt").read_text() for rank in (0, 1))
    assert first == f"RewardError: rl.rewards: one_rank:faulty failed: ValueError: no such unit {kept}"
    assert other == f"OtherRankError: a reward failed in another process {kept}"
    shutil.copytree(failed / "scratch", tmp_path / "failed" / "scratch")
    monkeypatch.syspath_prepend(HERE)
    one_rank = importlib.import_module("one_rank")
    monkeypatch.setattr(one_rank.CarefulGRPOTrainer, "_generate_single_turn", one_rank.made_up)
    job = one_rank.job_of(tmp_path, begun, "failed", progress=kit.Notes())
    train_rl(job, RlConfig(**one_rank.FAULTY), system1=[], system2=one_rank.rows(20))
    assert "going on after step 2" in job.progress.lines
    made, wanted = kit.tensors(job.output), kit.tensors(several / "2" / "rl" / "rank0")
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=1e-6)


def test_a_step_is_dealt_evenly_or_to_fewer() -> None:
    sft = SftConfig(batch_size=2, gradient_accumulation=6)
    assert (share_of(sft, 4).batch_size, share_of(sft, 4).gradient_accumulation) == (1, 3)
    assert share_of(sft, 5) is None
    assert best_share(sft, 5).processes == 4
    assert best_share(SftConfig(batch_size=1, gradient_accumulation=1), 8).processes == 1


def test_no_group_of_completions_is_torn() -> None:
    rl = RlConfig(batch_size=8, gradient_accumulation=4, num_generations=8)
    assert [count for count in range(1, 9) if share_of(rl, count)] == [1, 2, 4]
    assert best_share(RlConfig(batch_size=4, gradient_accumulation=4, num_generations=8), 4).processes == 2


def test_several_processes_that_go_on_inside_an_epoch_read_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.23 winds the data forward by a wrapper in which accelerate does not find the sampler any more."""
    seen: list[list[int]] = []
    wound = lambda self, epoch, train_dataloader: seen.append(  # noqa: E731
        [row for batch in skip_first_batches(train_dataloader, 1).batch_sampler for row in batch]
    )
    monkeypatch.setattr("transformers.Trainer._run_epoch", wound)
    rows, sampler = list(range(8)), FilledSampler(rows=8, multiple=4, seed=0)
    batches = BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), num_processes=2, process_index=1)
    loader = DataLoaderShard(rows, batch_sampler=batches)
    trainer = CarefulSFTTrainer.__new__(CarefulSFTTrainer)
    trainer._run_epoch(epoch=1, train_dataloader=loader)
    sampler.set_epoch(1)
    assert seen == [list(sampler)[6:]]


def test_every_row_is_dealt_once_an_epoch_and_fillers_come_last() -> None:
    sampler = FilledSampler(rows=5, multiple=4, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first[:5]) == list(range(5))
    assert first[5:] == [5, 5, 5]
    assert len(first) == len(sampler) == 8
    assert list(sampler)[:5] != first[:5]
