"""A run that is killed within any step and started again ends with the bytes of one that never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorapar.adapter import (
    AdapterSettings,
    Partition,
    adapter_parameters,
    attach,
    base_digest,
    check_frozen,
    save_adapter,
    whole_partition,
)
from lorapar.adapter.files import read_tensors
from lorapar.basemodel import load_model
from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, RlConfig, SftConfig
from lorapar.errors import Terminated, TrainingError
from lorapar.stopping import on_sigterm
from lorapar.training.candidates import candidate_steps, candidates_in
from lorapar.training.own_rewards import RewardError
from lorapar.training.rl import train_rl
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft
from lorapar.training.watch import Watch

Make = Callable[..., TrainingJob]
EVERY_STEP = CheckpointConfig(interval_seconds=0.0, keep=2)
NAMES = ("adapter_model.safetensors", "adapter_config.json", "history.jsonl", "summary.json")
# A random model never earns the paper's rewards; this one it earns by chance, and differently in every group.
REWARD = "def parity(completions, references):\n    return [float(sum(map(ord, text)) % 2) for text in completions]\n"


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs afterwards may matter."""


class Trained:
    """Trains with one method's settings, killed within a step where wanted; each call loads everything again."""

    def __init__(self, method: str, kit: Any, **changes: Any) -> None:
        self._rows = {"system1": kit.words(10), "system2": kit.sums(6)}
        self._method = method
        if method == "sft":
            # 2 epochs of 10 rows in batches of 2 x 2: steps of an epoch's rest, an epoch's end, a falling rate.
            self._config: Any = SftConfig(
                batch_size=2, gradient_accumulation=2, epochs=2, learning_rate=1e-2, **changes
            )
        else:
            # 6 prompts, 2 a step: 2 epochs of 3 steps, with a distance to SFT's adapter that is not 0 after a step.
            self._config = RlConfig(
                batch_size=4, gradient_accumulation=2, num_generations=4, max_completion_length=8, learning_rate=1e-2,
                kl_beta=0.1, **{"epochs": 2, "rewards": {"parity_reward:parity": 1.0}, **changes},
            )  # fmt: skip

    def __call__(self, job: TrainingJob, kill_in_step: int | None = None) -> TrainingJob:
        run = train_sft if self._method == "sft" else train_rl
        if kill_in_step is None:
            run(job, self._config, **self._rows)
            return job
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Watch, "on_pre_optimizer_step", _raise_in_step(kill_in_step))
            with pytest.raises(Killed):
                run(job, self._config, **self._rows)
        return job


def _raise_in_step(step: int) -> Any:
    whole = Watch.on_pre_optimizer_step

    def on_pre_optimizer_step(self: Watch, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        whole(self, args, state, control, **kwargs)
        if state.global_step + 1 == step:
            raise Killed

    return on_pre_optimizer_step


@pytest.fixture(autouse=True)
def _reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parity_reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def made(job: TrainingJob) -> dict[str, bytes]:
    """What the stage made, by file name."""
    names = [*NAMES, *(["rollouts.jsonl"] if (job.output / "rollouts.jsonl").exists() else [])]
    candidates = sorted(str(path.relative_to(job.output)) for path in job.output.glob("candidates/*/*.safetensors"))
    return {name: (job.output / name).read_bytes() for name in (*names, *candidates)}


def again(job: TrainingJob, **changes: Any) -> TrainingJob:
    """The next call with the same scratch folder, and nothing else of the last one."""
    shutil.rmtree(job.output)
    job.output.mkdir()
    return replace(job, keeper=Keeper(EVERY_STEP), progress=type(job.progress)(), **changes)


@pytest.mark.parametrize(
    ("method", "changes", "steps"),
    [("sft", {}, (2, 3, 4)), ("sft", {"loss_average": "row", "max_steps": 5}, (3,)), ("rl", {}, (2, 4, 5))],
)
def test_killed_within_a_step_it_ends_with_the_same_bytes(make_job: Make, kit, method, changes, steps) -> None:
    train = Trained(method, kit, **changes)
    whole = made(job := train(make_job("whole", keeper=Keeper(EVERY_STEP), candidates=3)))
    assert len(whole["history.jsonl"].splitlines()) == 6 if not changes else 5
    assert_candidates(job, whole, "system1" if method == "sft" else "system2")
    for step in steps:
        job = train(make_job(f"killed{step}", keeper=Keeper(EVERY_STEP), candidates=3), kill_in_step=step)
        job = train(again(job))
        assert f"going on after step {step - 1}" in job.progress.lines
        assert job.progress.total == len(job.progress.notes) == len(whole["history.jsonl"].splitlines()) - step + 1
        assert made(job) == whole


def assert_candidates(job: TrainingJob, whole: dict[str, bytes], system: str) -> None:
    """Adapters after a third and two thirds of the steps: each another one, with every frozen element as it was."""
    steps = len(whole["history.jsonl"].splitlines())
    kept = candidates_in(job.output)
    assert tuple(kept) == candidate_steps(steps, 3) == (2, 4 if steps == 6 else 3)
    assert json.loads((job.output / "candidates" / "summary.json").read_text()) == {"steps": steps, "system": system}
    weights = [folder / "adapter_model.safetensors" for folder in (*kept.values(), job.output)]
    assert len({path.read_bytes() for path in weights}) == 3
    mask = Partition.load(job.partition).mask(system)
    before = read_tensors(job.adapter / "adapter_model.safetensors")[0]
    for path in weights:
        assert check_frozen(before, read_tensors(path)[0], mask, rank=2).moved > 0


def test_candidates_are_as_many_as_there_are_steps() -> None:
    assert candidate_steps(1, 4) == ()
    assert candidate_steps(3, 20) == (1, 2)
    assert candidate_steps(200, 4) == (50, 100, 150)


@pytest.mark.parametrize(("method", "quantization", "step"), [("sft", "nf4", 3), ("rl", "nf4", 2), ("sft", "int8", 2)])
def test_on_a_quantised_base_too_and_nothing_but_active_elements_moves(
    make_job: Make, kit, start, method, quantization, step
) -> None:
    train = Trained(method, kit, max_steps=3)
    model = kit.TINY.model_copy(update={"quantization": quantization})
    before = base_digest(load_model(model))
    job = train(make_job("whole", model=model))
    whole = made(job)
    assert json.loads(whole["summary.json"])["base_weights_sha256"] == before
    mask = Partition.load(job.partition).mask("system1" if method == "sft" else "system2")
    old, new = (read_tensors(folder / "adapter_model.safetensors")[0] for folder in (start / "adapter", job.output))
    for name, active in mask.items():
        key = name.replace(".default", "")
        frozen = torch.ones_like(old[key], dtype=torch.bool)
        frozen[tuple(slice(size) for size in active.shape)] = ~active.bool()
        assert old[key].dtype == new[key].dtype == torch.float32  # TRL would have rounded them to bfloat16
        assert torch.equal(old[key][frozen], new[key][frozen])
    killed = train(make_job("killed", model=model, keeper=Keeper(EVERY_STEP)), kill_in_step=step)
    assert made(train(again(killed))) == whole


@pytest.mark.parametrize(("kind", "method"), [("dora", "sft"), ("prompt", "rl"), ("prefix", "sft"), ("ia3", "rl")])
def test_of_a_kind_that_is_not_divided_every_parameter_is_trained_and_a_kill_changes_nothing(
    make_job: Make, kit, tmp_path, kind, method
) -> None:
    settings = AdapterSettings(kind=kind, rank=2, alpha=8, virtual_tokens=3)
    model = attach(load_model(kit.TINY), settings, seed=0)
    save_adapter(model, tmp_path / "adapter")
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter_parameters(model).items()}
    whole_partition(shapes, ("system1", "system2")).save(tmp_path / "partition.safetensors", {})
    own = {"adapter": tmp_path / "adapter", "partition": tmp_path / "partition.safetensors"}
    train = Trained(method, kit, max_steps=2)
    job = train(make_job("whole", **own))
    whole = made(job)
    message = json.loads(whole["summary.json"])
    assert message["active_fraction"] == 1
    assert message["base_weights_sha256"] == base_digest(load_model(kit.TINY))
    distances = [json.loads(line).get("kl") for line in whole["history.jsonl"].splitlines()]
    assert method == "sft" or (distances[0] == 0 < distances[-1])  # the reference is the adapter as RL began
    killed = train(make_job("killed", keeper=Keeper(EVERY_STEP), **own), kill_in_step=2)
    assert made(train(again(killed))) == whole


def test_steps_that_learn_from_the_same_completions_are_made_whole_before_a_checkpoint(make_job: Make, kit) -> None:
    """Two steps a generation, and an entropy bonus whose weight moves: both are as they were after a kill."""
    changes = {"num_iterations": 2, "epochs": 1, "use_adaptive_entropy": True, "entropy_target": 9.0}
    train = Trained("rl", kit, **changes, entropy_coef_delta=0.3)
    job = make_job("whole")
    whole = made(train(job))
    assert ["reward" in json.loads(line) for line in whole["history.jsonl"].splitlines()] == [True, False] * 3
    assert json.loads(whole["summary.json"])["completions"] == 3 * 8
    assert [json.loads(line)["step"] for line in whole["rollouts.jsonl"].splitlines()] == [1] * 4 + [3] * 4 + [5] * 4
    job = train(make_job("killed", keeper=Keeper(EVERY_STEP)), kill_in_step=4)
    job = train(again(job))
    assert "going on after step 2" in job.progress.lines
    assert made(job) == whole


@pytest.mark.parametrize("method", ["sft", "rl"])
def test_saving_changes_nothing(make_job: Make, kit, method) -> None:
    train = Trained(method, kit, max_steps=2)
    assert made(train(make_job("saved", keeper=Keeper(EVERY_STEP)))) == made(train(make_job("never")))


def test_killed_again_and_again(make_job: Make, kit) -> None:
    train = Trained("rl", kit)
    whole = made(train(make_job("whole")))
    job = train(make_job("killed", keeper=Keeper(EVERY_STEP)), kill_in_step=1)
    for step in (2, 3, 6):
        job = train(again(job), kill_in_step=step)
    assert made(train(again(job))) == whole


def test_killed_after_the_last_step_no_step_is_made_twice(make_job: Make, kit) -> None:
    train = Trained("sft", kit, max_steps=3)
    job = train(make_job("job", keeper=Keeper(EVERY_STEP)))
    whole = made(job)
    job = train(again(job))
    assert job.progress.notes == []
    assert made(job) == whole


def test_sigterm_finishes_the_step_saves_and_ends(make_job: Make, kit, monkeypatch) -> None:
    train = Trained("sft", kit)
    whole = made(train(make_job("whole")))
    job = make_job("stopped")  # a checkpoint is due every 60 s, so the one that is found was made because of the signal
    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        step = Watch.on_pre_optimizer_step

        def preempted(self: Watch, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step(self, args, state, control, **kwargs)
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Watch, "on_pre_optimizer_step", preempted)
            with pytest.raises(Terminated):
                train(job)
    finally:
        signal.signal(signal.SIGTERM, before)
    job = train(again(job))
    assert "going on after step 3" in job.progress.lines
    assert made(job) == whole


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_a_tampered_checkpoint_is_named_and_the_one_before_it_taken(make_job: Make, kit, file) -> None:
    train = Trained("sft", kit, max_steps=4)
    whole = made(train(make_job("whole")))
    job = train(make_job("job", keeper=Keeper(EVERY_STEP)), kill_in_step=4)
    damaged = job.scratch / "checkpoint-3" / file
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    job = train(again(job))
    (line,) = (line for line in job.progress.lines if "is not used" in line)
    assert str(damaged) in line
    assert "not those the manifest names" in line
    assert "going on after step 2" in job.progress.lines
    assert made(job) == whole


def test_where_every_checkpoint_is_damaged_training_starts_over(make_job: Make, kit) -> None:
    train = Trained("sft", kit, max_steps=3)
    whole = made(train(make_job("whole")))
    job = train(make_job("job", keeper=Keeper(EVERY_STEP)), kill_in_step=3)
    for folder in job.scratch.glob("checkpoint-*"):
        (folder / "adapter.safetensors").unlink()
    job = train(again(job))
    assert sum("named in the manifest but missing" in line for line in job.progress.lines) == 2
    assert not any("going on" in line for line in job.progress.lines)
    assert made(job) == whole


def test_no_more_checkpoints_lie_there_than_the_settings_keep(make_job: Make, kit) -> None:
    job = Trained("sft", kit)(make_job("job", keeper=Keeper(EVERY_STEP)))
    assert {path.name for path in job.scratch.glob("checkpoint-*")} == {"checkpoint-5", "checkpoint-6"}


def test_no_pickle_is_written(make_job: Make, kit) -> None:
    job = Trained("rl", kit, max_steps=1)(make_job("job", keeper=Keeper(EVERY_STEP)))
    written = {path.suffix for path in (job.scratch / "checkpoint-1").iterdir()}
    assert written == {".safetensors", ".json", ".jsonl"}
    json.loads((job.scratch / "checkpoint-1" / "state.json").read_text())


def test_what_went_wrong_goes_wrong_again_with_the_same_last_good_adapter(make_job: Make, kit) -> None:
    train = Trained("sft", kit, weight_decay=0.0)
    broken = replace(make_job("job", keeper=Keeper(EVERY_STEP)))
    train._config = train._config.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(TrainingError, match=r"last good adapter, after (\d+) steps") as first:
        train(broken)
    with pytest.raises(TrainingError) as second:
        train(again(broken))
    assert str(second.value) == str(first.value)


JUDGE = """
calls = 0
down = False

def judged(completions, references):
    global calls
    calls += 1
    if down and calls > 3:
        raise TimeoutError("the judge did not answer")
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""


def test_a_reward_that_fails_leaves_the_state_before_its_step(make_job: Make, kit, tmp_path, monkeypatch) -> None:
    (tmp_path / "far_judge.py").write_text(JUDGE, encoding="utf-8")
    import far_judge

    train = Trained("rl", kit, rewards={"far_judge:judged": 1.0})
    whole = made(train(make_job("whole")))
    far_judge.calls, far_judge.down = 0, True
    job = make_job("failed")  # never writes a checkpoint of its own accord
    with pytest.raises(RewardError) as failed:
        train(job)
    line = str(failed.value)
    assert line.startswith("rl.rewards: far_judge:judged failed: TimeoutError: the judge did not answer (at step 3); ")
    assert "the state after step 2 is kept" in line
    far_judge.down = False
    job = train(again(job))
    assert "going on after step 2" in job.progress.lines
    assert made(job) == whole


def test_a_reward_that_fails_in_the_first_step_leaves_nothing(make_job: Make, kit, tmp_path) -> None:
    (tmp_path / "farther_judge.py").write_text(JUDGE.replace("calls > 3", "calls > 1"), encoding="utf-8")
    import farther_judge

    farther_judge.down = True
    with pytest.raises(RewardError, match=r"\(at step 1\); nothing was trained yet"):
        Trained("rl", kit, rewards={"farther_judge:judged": 1.0})(make_job())
