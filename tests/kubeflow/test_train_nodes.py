"""Training on several nodes for real: a task starts a TrainJob, whose nodes run here as processes of the command."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach
from lorapar.adapter.files import read_tensors
from lorapar.adapter.folder import save_adapter
from lorapar.basemodel import load_model
from lorapar.config import RlConfig, SftConfig
from lorapar.config.training import PhaseConfig
from lorapar.errors import TrainingError
from lorapar.kubeflow import train_nodes
from lorapar.kubeflow.executor import run_task
from lorapar.kubeflow.ledger import Ledger
from lorapar.records import read_json, write_records
from lorapar.stages.contract import StageCall, run_stage
from lorapar.stages.rl import Settings
from lorapar.store import fetch_tree, open_store, put_tree, seal
from tests.kubeflow.conftest import executor_input
from tests.kubeflow.own_pod import own_pod
from tests.kubeflow.trainer_double import TrainerDouble
from tests.store.s3_in_memory import S3InMemory
from tests.training.conftest import TINY, Notes, random_partition

TESTS = Path(__file__).parents[1]
RUN = "run-abc"
PHASES = (PhaseConfig(system="system1", method="sft"), PhaseConfig(system="system2", method="rl"))


@pytest.fixture(scope="module")
def one_rank() -> Any:
    """Rows, settings and made-up completions of the tests of several processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TESTS / "training")
        patch.syspath_prepend(TESTS / "kubeflow")
        module = importlib.import_module("one_rank")
        patch.setattr(module.CarefulGRPOTrainer, "_generate_single_turn", module.made_up)
        yield module


@pytest.fixture(scope="module")
def settings(one_rank: Any) -> Settings:
    """Three steps of SFT on System 1, then four of GRPO on System 2, in one task."""
    sft = {**one_rank.SFT, "max_steps": 3}
    rl = {**one_rank.RL, "max_steps": 4, "rewards": {"node_work:rewarded": 1.0}}
    return Settings(model=TINY, prompts={}, seed=0, rl=RlConfig(**rl), sft=SftConfig(**sft), trains=PHASES)


@pytest.fixture(scope="module")
def inputs(one_rank: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the task reads: an adapter without dropout, a partition, and rows of both systems."""
    root = tmp_path_factory.mktemp("inputs")
    folders = {name: root / name for name in ("adapter", "partition", "system1", "system2")}
    for folder in folders.values():
        folder.mkdir()
    model = attach(load_model(TINY), AdapterSettings(rank=2, alpha=8, dropout=0.0), seed=0)
    save_adapter(model, folders["adapter"])
    partition = random_partition(model, shared={"system1": 1.0, "system2": 1.0})
    partition.save(folders["partition"] / "partition.safetensors", {})
    for system, count in (("system1", 21), ("system2", 20)):
        write_records(folders[system] / "examples.jsonl", one_rank.rows(count))
    for name, folder in folders.items():
        seal(folder, f"test.{name}")
    return folders


@pytest.fixture(scope="module")
def alone(settings: Settings, inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone")
    for name in ("adapter", "scratch"):
        (root / name).mkdir()
    read = {name: (folder,) for name, folder in inputs.items()}
    run_stage("rl", StageCall(settings, read, {"adapter": root / "adapter"}, root / "scratch"))
    return root / "adapter"


def test_a_killed_node_ends_all_and_the_next_try_makes_what_one_process_makes(
    settings: Settings, inputs: dict[str, Path], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_nodes, "POLL_SECONDS", 0.1)
    (kill := tmp_path / "kill").touch()
    with (
        S3InMemory() as bucket,
        TrainerDouble(
            tmp_path,
            own_pod(
                {
                    "PYTHONPATH": f"{TESTS / 'kubeflow'}:{TESTS / 'training'}",
                    "KILL": str(kill),
                    "OMP_NUM_THREADS": "1",
                    "AWS_ENDPOINT_URL": bucket.endpoint,
                    "AWS_DEFAULT_REGION": "us-east-1",
                },
                wanted='{"nodes":2,"processes":1}',
            ),
            {("keys", "id"): "someone", ("keys", "secret"): "s3cret"},
        ) as double,
    ):
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://bucket/lorapar")
        ledger = Ledger(store, RUN)
        digests = {}
        for name, folder in inputs.items():
            manifest = put_tree(store, folder)
            ledger.write_manifest(manifest)
            digests[f"{name}_digest"] = manifest.digest
        plan = {"plan": {"config": {"checkpoint": {"interval_seconds": 0}}}}
        ledger.write_result("plan.json", json.dumps(plan).encode())
        planned = ledger.write_settings({"rl": settings.model_dump(mode="json")})
        values = {"settings": planned, "store": "s3://bucket/lorapar", **digests}
        text = executor_input(tmp_path / "task", values, ["metrics"], ["rl_adapter_digest"])
        notes = Notes()
        with pytest.raises(TrainingError, match=r"node 1 of the TrainJob lorapar-rl-\w+ was killed \(OOMKilled"):
            run_task("rl", text, None, tmp_path / "scratch", notes)
        assert not kill.exists()
        run_task("rl", text, None, tmp_path / "scratch", notes)
        message = json.loads((tmp_path / "task" / "executor_output.json").read_text(encoding="utf-8"))
        made = tmp_path / "made"
        fetch_tree(store, ledger.read_manifest(message["parameterValues"]["rl_adapter_digest"]), made)
    ours, theirs = (read_tensors(folder / "adapter_model.safetensors")[0] for folder in (made, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    mine, other = read_json(made / "summary.json"), read_json(alone / "summary.json")
    assert [phase["processes"] for phase in mine["phases"]] == [2, 2]
    assert [phase["steps"] for phase in mine["phases"]] == [phase["steps"] for phase in other["phases"]] == [3, 4]
