"""GRPO whose completions a real vLLM server samples, from the adapter that it is sent at every step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lorapar.adapter import AdapterSettings, attach, base_digest, lora_parameters
from lorapar.adapter.folder import load_adapter
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig, RlConfig, RolloutServer
from lorapar.doctor import examine_rollouts
from lorapar.errors import BadInputError, ExitCode
from lorapar.records import read_json
from lorapar.training.ranks import RolloutsLostError
from lorapar.training.rl import train_rl
from lorapar.training.rollout_server import Server
from lorapar.training.server_rollouts import server_rollouts
from lorapar.training.session import TrainingJob
from lorapar.training.vllm_rollouts import vllm_rollouts
from tests.integration.vllm import rollout_server as real
from tests.integration.vllm.jobs import BASE, EQUAL, RANK, ROWS, STEPS, begin, job_of
from tests.notes import Notes

REWARD = (
    "calls, then = 0, None\n"
    "def parity(completions, references):\n"
    "    global calls\n"
    "    calls += 1\n"
    "    if then: then(calls)\n"
    "    return [float(sum(map(ord, text)) % 2) for text in completions]\n"
)
PROMPTS = [[40 + n, 41, 42 + n % 3, 60] for n in (0, 0, 1, 1)]
SAMPLED = {"max_completion_length": 12, "temperature": 0.8, "top_p": 0.9}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is not the base, and a partition of random scores."""
    folder = tmp_path_factory.mktemp("begun")
    model = attach(load_model(BASE), AdapterSettings(rank=RANK, alpha=8, dropout=0.0), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    begin(folder, model)
    return folder


@pytest.fixture
def make_job(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainingJob]:
    (tmp_path / "parity_reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parity_reward", raising=False)

    return lambda name="run", model=BASE: job_of(begun, tmp_path / name, Notes(), model)


@pytest.fixture(scope="module")
def in_process(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the engine in this process samples; it is gone before a server starts."""
    job = job_of(begun, tmp_path_factory.mktemp("engine"), Notes(), seed=5)
    model = load_adapter(load_model(BASE), begun / "adapter", trainable=True)
    with vllm_rollouts(job, RlConfig(rollouts="vllm", **SAMPLED)) as rollouts:
        return rollouts.complete(model, 3, PROMPTS, [2])


@pytest.fixture(scope="module")
def sending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.RolloutServer]:
    """A server with lorapar's middleware; the one test with an engine beside it has that first, and ended."""
    server = real.RolloutServer(BASE, tmp_path_factory.mktemp("sending"), sent=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[real.RolloutServer]:
    """A plain server, which loads paths."""
    server = real.RolloutServer(BASE, tmp_path, sent=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def settings(address: str, server: dict[str, Any] | None = None, **changes: Any) -> RlConfig:
    fast = {"batch_size": 4, "gradient_accumulation": 2, "num_generations": 4, "max_steps": STEPS}
    small = {"max_completion_length": 12, "learning_rate": 1e-2, "rewards": {"parity_reward:parity": 1.0}}
    quick = {"endpoint": address, "openai": {"attempts": 2, "max_wait_seconds": 0.5}, **(server or {})}
    return RlConfig(**{**fast, **small, "rollouts": "server", "server": quick, **changes})


def differences(job: TrainingJob) -> list[float]:
    """By step, how far the server's log-probabilities of its completions were from the trainer's, in the mean."""
    lines = (job.output / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["rollout_difference"]) for line in lines]


def test_an_engine_and_a_server_sample_the_same_by_the_same_seed(begun, in_process, sending, make_job) -> None:
    job = make_job()
    model = load_adapter(load_model(BASE), begun / "adapter", trainable=True)
    job = TrainingJob(**{**vars(job), "seed": 5})
    with server_rollouts(job, settings(sending.address, **SAMPLED)) as rollouts:
        tokens, log_probs = rollouts.complete(model, 3, PROMPTS, [2])
    assert tokens == in_process[0]
    assert len({tuple(one) for one in tokens}) > 1
    for ours, theirs in zip(log_probs, in_process[1], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_every_step_samples_from_the_adapter_as_it_is_then(make_job, sending) -> None:
    job = make_job()
    before = base_digest(load_model(BASE))
    metrics = train_rl(job, settings(sending.address, temperature=0.8), system1=[], system2=ROWS)
    assert metrics["steps"] == STEPS
    assert len(differences(job)) == STEPS
    assert max(differences(job)) < EQUAL
    assert read_json(job.output / "summary.json")["base_weights_sha256"] == before
    server = Server(RolloutServer(endpoint=sending.address))
    assert server.look().adapters == ()
    assert server.facts()["adapters"] == []
    assert list((job.scratch / "rollouts" / "rank-0").iterdir()) == []


def test_another_base_is_refused_before_anything_is_learned(begun, make_job, sending, tmp_path) -> None:
    config = transformers.AutoConfig.from_pretrained(sending._copy)
    torch.manual_seed(7)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    transformers.AutoTokenizer.from_pretrained(sending._copy).save_pretrained(tmp_path / "other")
    other = ModelConfig(name=str(tmp_path / "other"), dtype="float32")
    with pytest.raises(BadInputError, match=r"serves another model than .*other.*to be started as: VLLM_ALLOW") as told:
        train_rl(make_job(model=other), settings(sending.address), system1=[], system2=ROWS)
    assert "\n" not in str(told.value)


def test_what_the_server_takes_is_told_before_training(make_job, sending) -> None:
    for changes, words in (
        ({"max_completion_length": 600}, "takes 512 tokens, and .* is 728"),
        ({"server": {"endpoint": sending.address, "folder": "/nowhere"}}, "is closed: adapters are sent to"),
    ):
        with pytest.raises(BadInputError, match=words):
            train_rl(make_job(), settings(sending.address, **changes), system1=[], system2=ROWS)
    (found,) = examine_rollouts(sending.address)
    assert (found.state, "of rank up to 8" in found.found) == ("ok", True)


def test_a_server_that_is_started_anew_is_sent_the_adapter_again(make_job, sending) -> None:
    import parity_reward

    def restart(call: int) -> None:
        if call == 3:  # one call looks whether it works
            sending.kill()
            sending.start()

    plain, job = make_job("plain"), make_job("restarted")
    train_rl(plain, settings(sending.address), system1=[], system2=ROWS)
    parity_reward.calls, parity_reward.then = 0, restart
    train_rl(job, settings(sending.address), system1=[], system2=ROWS)
    assert max(differences(job)) < EQUAL
    assert (job.output / "rollouts.jsonl").read_text() == (plain.output / "rollouts.jsonl").read_text()


def test_a_server_that_stays_away_ends_the_step_and_the_next_call_goes_on(make_job, sending) -> None:
    import parity_reward

    def kill(call: int) -> None:
        if call == 3:
            sending.kill()

    parity_reward.calls, parity_reward.then = 0, kill
    job = make_job()
    brief = settings(sending.address, {"wait_seconds": 1})
    with pytest.raises(RolloutsLostError, match=r"\(at step 3\); the state after step 2 is kept") as told:
        train_rl(job, brief, system1=[], system2=ROWS)
    assert told.value.exit_code == ExitCode.UNREACHABLE
    assert "\n" not in str(told.value)
    (found,) = examine_rollouts(sending.address)
    assert (found.state, found.exit_code) == ("missing", ExitCode.UNREACHABLE)
    parity_reward.then = None
    sending.start()
    train_rl(job, brief, system1=[], system2=ROWS)
    assert "going on after step 2" in job.progress.lines
    assert len(differences(job)) == STEPS


def test_adapters_travel_by_a_folder_that_both_see(make_job, sharing, tmp_path) -> None:
    """Last, so that one server is there at a time."""
    job = make_job()
    shared = {"folder": str(tmp_path / "shared")}
    train_rl(job, settings(sharing.address, shared), system1=[], system2=ROWS)
    assert max(differences(job)) < EQUAL
    assert not [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    with pytest.raises(BadInputError, match="it cannot be sent adapters over HTTP"):
        train_rl(make_job("sent"), settings(sharing.address), system1=[], system2=ROWS)
    (found,) = examine_rollouts(sharing.address)
    assert (found.state, "from a folder" in found.found) == ("note", True)


def test_the_gpu_check_starts_the_server_of_its_part(tmp_path, monkeypatch) -> None:
    """The code path of `make gpu-check`, at a tiny shape on the CPU."""
    from tests.gpu import check

    tiny = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape = {**tiny, "num_attention_heads": 2, "max_position_embeddings": 1024}
    short = ("score.max_length=64", "sft.max_length=64", "rl.max_completion_length=8", "model.dtype=float32")
    monkeypatch.setattr(check, "SERVER_SHARE", 0.2)
    (part,) = (one for one in check.PARTS if one.served)
    figures = check.measure_part(part, shape, tmp_path, short)
    assert [figure.stage for figure in figures][-1] == "rl"
    assert "steps 2" in figures[-1].note
