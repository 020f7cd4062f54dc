"""GRPO whose completions come from a server that is sent the adapter, and the sleep of an engine beside the trainer."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, copy_adapter
from lorapar.adapter.folder import save_adapter
from lorapar.basemodel import load_model
from lorapar.config import EngineOptions, ModelConfig, RlConfig, RolloutServer
from lorapar.doctor import examine_rollouts
from lorapar.errors import BadInputError, ExitCode, Terminated, TrainingError, UnreachableError
from lorapar.serving.rollout_adapters import RolloutAdapters
from lorapar.stopping import finishing_steps, on_sigterm
from lorapar.training import pass_rates, server_rollouts
from lorapar.training.engine_trainer import unlearned_completions
from lorapar.training.pass_rates import filter_rows
from lorapar.training.ranks import RolloutsLostError
from lorapar.training.reward_tools import RewardTools
from lorapar.training.rl import train_rl
from lorapar.training.rollout_server import MIDDLEWARE, Server, server_command
from lorapar.training.sampling import sampling_of
from lorapar.training.server_rollouts import ServerRollouts
from lorapar.training.session import TrainingJob
from lorapar.training.vllm_rollouts import awake, is_to_sleep
from lorapar.voting.endpoint_client import RefusedError
from tests.training.rollout_double import BASE, RolloutDouble

HERE = Path(__file__).parent
STEPS = 3
EQUAL = 1e-4


@pytest.fixture(scope="module")
def double(kit) -> Iterator[RolloutDouble]:
    server = RolloutDouble(kit.TINY)
    yield server
    server.close()


@pytest.fixture
def server(double: RolloutDouble) -> RolloutDouble:
    double.adapters, double.history, double.asked = {}, [], []
    double.forgets_after, double.gone, double.longest = None, False, 4096
    double.takes_adapters = double.processed = double.has_base = True
    double.key = ""
    double.busy, double.before = set(), lambda body: None
    return double


@pytest.fixture(autouse=True)
def _reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "then = None\ndef parity(completions, references):\n    then and then()\n"
    text += "    return [float(sum(map(ord, text)) % 2) for text in completions]\n"
    (tmp_path / "served_reward.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "served_reward", raising=False)


def settings(server: RolloutDouble, **changes: Any) -> RlConfig:
    fast = {"batch_size": 4, "gradient_accumulation": 2, "num_generations": 4, "max_steps": STEPS}
    small = {"max_completion_length": 6, "learning_rate": 1e-2, "rewards": {"served_reward:parity": 1.0}}
    where = {"endpoint": server.address, "wait_seconds": 0.2, "openai": {"attempts": 1, "max_wait_seconds": 0.1}}
    return RlConfig(**{**fast, **small, "rollouts": "server", "server": where, **changes})


def train(job: TrainingJob, config: RlConfig, kit: Any) -> list[dict[str, Any]]:
    train_rl(job, config, system1=[], system2=kit.sums(6))
    return [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]


def test_every_step_is_sampled_from_the_adapter_that_was_sent_then(kit, make_job, server) -> None:
    job = make_job()
    steps = train(job, settings(server, temperature=0.7), kit)
    assert max(step["rollout_difference"] for step in steps) < EQUAL
    assert [step["unlearned_share"] for step in steps] == [0.0] * len(steps)
    names = [entry.split("-")[-1] for entry in server.history]
    assert names == ["0", "0", "0", "0", "1", "1", "2", "2"]
    assert [entry.split()[0] for entry in server.history] == ["load", "unload"] * 4
    assert server.adapters == {}
    first = server.asked[1]
    assert len({body["seed"] for body in server.asked[1:9]}) == 8
    plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert first.items() >= {**plain, "temperature": 0.7, "top_p": 1.0, "logprobs": 0, "return_token_ids": True}.items()
    moved, active = kit.changed(job, "system2")
    assert moved.any()
    assert not moved[~active].any()
    assert f"completions come from {server.address} ({BASE})" in job.progress.lines


def test_completions_that_are_too_unlike_the_trainers_are_counted_and_said(kit, make_job, server) -> None:
    job = make_job()
    (step,) = train(job, settings(server, max_steps=1, vllm_importance_sampling_clip_max=0.5), kit)
    assert step["unlearned_share"] == 1.0
    (line,) = (one for one in job.progress.lines if "not learned from" in one)
    assert line.startswith("WARNING: 8 of 8 completions not learned from: how likely each is to the trainer")
    assert "is not from 0 to 0.5; set rl.vllm_importance_sampling_mode to sequence_truncate" in line
    omissions = json.loads((job.output / "summary.json").read_text())["omissions"]
    assert [(one["count"], one["total"]) for one in omissions if "not learned" in one["what"]] == [(8, 8)]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ([[0.0], [1.2], [0.0]], [True, False, False]),
        ([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], [True, False, False]),
    ],
)
def test_a_completion_is_unlearned_where_none_of_its_own_tokens_has_weight(ratio, expected) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    assert unlearned_completions(torch.tensor(ratio), mask).tolist() == expected


def test_rows_of_the_filter_are_sampled_by_seeds_of_their_own(kit, make_job, server, monkeypatch) -> None:
    """Asked a few at a time, always at the step 0: no two rows share their random numbers, nor do they with RL."""
    monkeypatch.setattr(pass_rates, "_VLLM_COMPLETIONS", 2)
    config = settings(server, filter={"samples": 2}, rewards={"served_reward:parity": 1.0})
    job = make_job()
    with suppress(BadInputError):  # too few rows may be left
        filter_rows(job, config, system1=[], system2=kit.sums(3), tools=RewardTools())
    seeds = [body["seed"] for body in server.asked if "seed" in body]
    assert len(seeds) == len(set(seeds)) == 3 * 2
    of_rl = {sampling_of(config, [], None, job.seed, 0, place)["seed"] for place in range(8)}
    assert not of_rl & set(seeds)


def test_an_adapter_that_the_server_forgot_is_sent_again_and_nothing_changes(kit, make_job, server) -> None:
    plain, other = make_job("plain"), make_job("forgotten")
    train(plain, settings(server), kit)
    server.asked, server.history, server.forgets_after = [], [], 12
    train(other, settings(server), kit)
    assert "restart" in server.history
    again = server.history.index("restart")
    assert server.history[again + 1] == server.history[again - 1].replace("unload", "load")
    first, second = kit.tensors(plain.output), kit.tensors(other.output)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_server_that_is_lost_ends_the_step_and_the_next_call_goes_on(kit, make_job, server) -> None:
    served = importlib.import_module("served_reward")
    calls = iter(range(99))

    def lose() -> None:
        server.gone = next(calls) == 2

    plain, job = make_job("plain"), make_job("lost")
    train(plain, settings(server), kit)
    served.then = lose
    with pytest.raises(RolloutsLostError, match=r"^rl\.server: http.*the state after step 2 is kept") as told:
        train(job, settings(server), kit)
    assert told.value.exit_code == ExitCode.UNREACHABLE
    assert "\n" not in str(told.value)
    served.then, server.gone = None, False
    train(job, settings(server), kit)
    assert "going on after step 2" in job.progress.lines
    first, second = kit.tensors(plain.output), kit.tensors(job.output)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("given", "changes", "words"),
    [
        ({"longest": 100}, {}, "takes 100 tokens, and rl.max_prompt_length with rl.max_completion_length is 134"),
        ({"takes_adapters": False}, {}, "it cannot be sent adapters over HTTP"),
        ({"has_base": False}, {}, "serves no base model"),
        ({"processed": False}, {"temperature": 0.7}, "log-probabilities as they are before rl.temperature"),
    ],
)
def test_a_server_that_does_not_do_is_refused_with_the_command_that_does(
    kit, make_job, server, given, changes, words
) -> None:
    for name, value in given.items():
        setattr(server, name, value)
    with pytest.raises(BadInputError, match=f"{words}.*to be started as: VLLM_ALLOW") as told:
        train(make_job(), settings(server, **changes), kit)
    assert told.value.exit_code == ExitCode.BAD_INPUT
    assert "\n" not in str(told.value)


def test_numbers_before_temperature_do_where_there_is_none(kit, make_job, server) -> None:
    server.processed = False
    assert len(train(make_job(), settings(server, max_steps=1), kit)) == 1


def test_a_server_of_another_base_is_refused(kit, make_job, server, monkeypatch) -> None:
    for parameter in server._base.parameters():
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.5
        monkeypatch.setattr(parameter, "data", parameter.data + noise)
    with pytest.raises(BadInputError, match=r"serves another model than builtin:tiny: .* nats a token"):
        train(make_job(), settings(server), kit)


def test_a_server_left_with_the_first_adapter_ends_the_run(kit, make_job, server, monkeypatch) -> None:
    job = make_job()

    def first_one(_: Any, folder: Path) -> None:
        folder.mkdir()
        copy_adapter(job.adapter, folder)

    monkeypatch.setattr(server_rollouts, "save_adapter", first_one)
    with pytest.raises(TrainingError, match="the completions are not the adapter's but the base model's"):
        train(job, settings(server), kit)


def test_a_server_is_waited_for_from_when_it_was_lost_and_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(server_rollouts, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    patience = server_rollouts._Patience(60, lines.append)
    now = 1000.0  # completions may take longer than a lost server is waited for
    for _ in range(30):
        patience.wait(UnreachableError("no answer"))
    with pytest.raises(UnreachableError, match="no answer"):
        patience.wait(UnreachableError("no answer"))
    assert lines == ["rl.server: no answer; it is waited for, 60 s at most"]
    assert now == pytest.approx(1060)


def test_sigterm_ends_the_wait_for_a_lost_server_at_once_and_keeps_the_state(kit, make_job, server) -> None:
    served = importlib.import_module("served_reward")
    calls = iter(range(99))

    def lose() -> None:
        server.gone = next(calls) == 1

    served.then = lose
    job, begun = make_job(), []

    def terminate(line: str) -> None:
        if "it is waited for" in line:
            begun.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    job.progress.log = terminate
    where = {"endpoint": server.address, "openai": {"max_wait_seconds": 0.1}}
    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        with pytest.raises(Terminated):
            train(job, settings(server).model_copy(update={"server": RolloutServer(**where)}), kit)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() < begun[0] + 60
    assert (job.scratch / "checkpoint-1").is_dir()


def test_after_sigterm_a_request_is_not_tried_again(server) -> None:
    server.gone = True
    patient = Server(RolloutServer(endpoint=server.address, openai={"attempts": 9}))
    begun = time.monotonic()
    with finishing_steps() as stop:
        stop.requested = True
        with pytest.raises(UnreachableError):
            patient.look()
    assert time.monotonic() < begun + 5


def test_a_busy_server_is_sent_an_adapter_again_and_asked_again_to_forget_it(make_job, server) -> None:
    job, config = make_job(), settings(server)
    rollouts = ServerRollouts(Server(config.server), config, job, "lorapar-00000001", "")
    server.busy = {"POST", "DELETE"}
    rollouts.meet(10)
    for step in (1, 2):
        server.busy = {"DELETE"} if step == 1 else set()
        rollouts._load(f"lorapar-00000001-{step}", job.adapter)
        rollouts._forget(f"lorapar-00000001-{step}")
    events = [f"{entry.split()[0]} {entry.rpartition('-')[2]}" for entry in server.history]
    assert events == ["load 0", "unload 0", "load 1", "unload 1", "load 2", "unload 2"]
    assert server.adapters == {}


def test_the_first_failure_is_the_one_that_is_told_and_ends_the_asking(server) -> None:
    begun: list[int] = []

    def fail(body: dict[str, Any]) -> None:
        (number,) = body["prompt"]
        begun.append(number)
        if number == 0:
            time.sleep(0.3)
            raise ConnectionError

    server.before = fail
    asker = Server(RolloutServer(endpoint=server.address, openai={"attempts": 1, "concurrency": 2}))
    with pytest.raises(RefusedError, match="does not exist"):
        asker.complete("lorapar-none", {place: {"prompt": [place], "max_tokens": 1} for place in range(6)}, {})
    assert sorted(begun) == [0, 1]


@pytest.fixture(scope="module")
def begun(kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    model = attach(load_model(kit.TINY), AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0)
    save_adapter(model, folder / "adapter")
    kit.random_partition(model, shared={"system1": 1.0, "system2": 1.0}).save(folder / "partition.safetensors", {})
    return folder


def test_two_processes_share_a_server_and_sample_what_one_does(
    kit, begun: Path, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "served_rank.py"), str(tmp_path), str(begun), server.address]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    together = [body for body in server.asked if body["model"] != BASE]
    loads = [entry.rpartition("-")[2] for entry in server.history if entry.startswith("load")]
    assert loads[:6] == ["0", "0", "1"] * 2  # tried, then step by step, and by the first process alone
    server.asked = []
    monkeypatch.syspath_prepend(HERE)
    served = importlib.import_module("served_rank")
    job = served.one_rank.job_of(tmp_path, begun, "alone", progress=kit.Notes())
    train_rl(job, served.settings(server.address), system1=[], system2=served.rows())
    alone = [body for body in server.asked if body["model"] != BASE]
    asked = [sorted((tuple(one["prompt"]), one["seed"]) for one in bodies[:64]) for bodies in (alone, together)]
    assert asked[0] == asked[1]
    wanted = kit.tensors(job.output)
    for run in ("served", "sharded"):
        for rank in (0, 1):
            made = kit.tensors(tmp_path / run / f"rank{rank}")
            for name, tensor in wanted.items():
                torch.testing.assert_close(made[name], tensor, rtol=0, atol=1e-6)
    first, second = ((tmp_path / "lost" / f"rank{rank}" / "ended.txt").read_text() for rank in (0, 1))
    kept = "(at step 2); the state after step 1 is kept and the same command goes on from there"
    assert second == f"RolloutsLostError: rl.server: no answer {kept}"
    assert first == f"OtherRankError: the server of the completions failed in another process {kept}"


class Recorder:
    """An engine that writes down what it is told."""

    def __init__(self, fails: str = "") -> None:
        self.told: list[Any] = []
        self._fails = fails

    def wake_up(self) -> None:
        self.told.append("wake")

    def sleep(self, level: int) -> None:
        self.told.append(("sleep", level))
        if self._fails == "sleep":
            raise RuntimeError("gone")

    def generate(self) -> None:
        self.told.append("generate")
        if self._fails:
            raise ValueError("no such adapter")


@pytest.mark.parametrize("fails", ["", "generate", "sleep"])
def test_an_engine_wakes_for_a_generation_and_sleeps_afterwards_whatever_happens(fails: str) -> None:
    engine, raised = Recorder(fails), None
    try:
        with awake(engine, sleeps=True):
            engine.generate()
    except ValueError as error:
        raised = str(error)
    assert engine.told == ["wake", "generate", ("sleep", 1)]
    assert raised == ("no such adapter" if fails else None)


def test_an_engine_that_does_not_sleep_is_left_alone() -> None:
    engine = Recorder()
    with awake(engine, sleeps=False):
        engine.generate()
    assert engine.told == ["generate"]


def test_sleep_is_on_where_there_is_cuda_and_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [is_to_sleep(EngineOptions(sleep=one)) for one in (None, False)] == [False, False]
    with pytest.raises(BadInputError, match=r"rl\.vllm\.sleep: .* no GPU is visible here; leave it out"):
        is_to_sleep(EngineOptions(sleep=True))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [is_to_sleep(EngineOptions(sleep=one)) for one in (None, True, False)] == [True, True, False]


def test_the_command_names_what_the_server_needs() -> None:
    model = ModelConfig(name="own er/base", revision="abc", dtype="bfloat16")
    command = server_command(model, 16, 640, sent=True)
    for part in ("--model 'own er/base'", "--revision abc", "--max-lora-rank 16", f"--middleware {MIDDLEWARE}"):
        assert part in command
    assert f"{RolloutAdapters.__module__}.{RolloutAdapters.__name__}" == MIDDLEWARE
    assert "--middleware" not in server_command(model, 16, 640, sent=False)


def test_the_command_names_a_base_that_vllm_does_not_know_by_its_folder(kit) -> None:
    command = server_command(kit.TINY.model_copy(update={"trust_remote_code": True}), 8, 64, sent=True)
    words = shlex.split(command)
    assert (Path(words[words.index("--model") + 1]) / "config.json").is_file()
    assert "--trust-remote-code" in words
    assert "--revision" not in words


def test_doctor_asks_a_server_with_its_key(server, monkeypatch) -> None:
    monkeypatch.setenv("ROLLOUTS_KEY", "secret-of-the-server")
    server.key = "secret-of-the-server"
    (found,) = examine_rollouts(server.address, "ROLLOUTS_KEY")
    assert f"serves {BASE}" in found.found
    (found,) = examine_rollouts(server.address)
    assert (found.state, "401" in found.advice) == ("missing", True)
