"""Whole runs that go on from a published adapter: beside it, and with its own elements."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lorapar.basemodel import load_model
from lorapar.config import ModelConfig, RunConfig
from lorapar.stages.plan import node_settings

IDS = torch.tensor([[5, 60, 7, 100]])


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory, cli):
    """A run beside version 1 of the registry, then one that trains version 2 further, in one run folder."""
    root = tmp_path_factory.mktemp("going-on")
    registry = shutil.copytree(tiny_run.parent / "registry", root / "registry")
    outputs = []
    for adapter, more in (("tiny@candidate", ()), ("tiny@2", ("--set", "model.continue=true", "--until", "publish"))):
        command = ("run", "--preset", "tiny", "--set", f"model.adapter={adapter}", *more, "--out", root / "run")
        result = cli(*command)
        assert result.returncode == 0, result.stdout + result.stderr
        outputs.append(result.stdout)
        if not more:
            shutil.copytree(root / "run", root / "first")
    return registry / "adapters" / "tiny", root, outputs


def tensors(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_new_version_holds_the_earlier_one_bit_for_bit(runs) -> None:
    versions, _, _ = runs
    old, new = tensors(versions / "1"), tensors(versions / "2")
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        held = tensor[16:] if ".lora_A." in name else tensor[:, 16:]
        assert torch.equal(held, old[name])


def test_it_is_one_plain_lora_and_names_its_parent(runs) -> None:
    versions, root, message = runs
    lineage = json.loads((versions / "2" / "lineage.json").read_text())
    assert lineage["parent"] == {
        **{"adapter": "tiny@1", "digest": lineage["settings"]["model"]["adapter_source"]["digest"]},
        **{"continued": False, "rank": 16, "trained_rank": 8},
    }
    assert lineage["serving"] == {"rank": 32, "max_lora_rank": 32}
    assert lineage["settings"]["model"]["adapter_source"]["registry"] is None
    assert "goes on from the adapter `tiny@1`" in (versions / "2" / "README.md").read_text()
    assert "goes on from tiny@1, whose rank 16 is held frozen beside the new" in message[0]
    assert "beside tiny@1, which is held frozen (rank 16)" in (root / "first" / "report.html").read_text()
    base = load_model(ModelConfig(name="builtin:tiny", dtype="float32"))
    with torch.no_grad():
        published = PeftModel.from_pretrained(base, str(versions / "2")).eval()(IDS).logits
    claim = json.loads((versions / "2" / "claim.json").read_text())
    assert claim["verification"]["max_logit_difference"] <= 1e-4
    assert torch.isfinite(published).all()


def test_continuing_moves_its_own_elements_and_adds_none(runs) -> None:
    versions, _, message = runs
    old, new = tensors(versions / "2"), tensors(versions / "3")
    moved = 0
    for name, tensor in new.items():
        assert tensor.shape == old[name].shape
        frozen = (tensor[8:], old[name][8:]) if ".lora_A." in name else (tensor[:, 8:], old[name][:, 8:])
        assert torch.equal(*frozen)
        moved += int((tensor != old[name]).sum())
    assert moved > 0
    assert "trains tiny@2 further: rank 8 of 32, no new elements" in message[1]
    parent = json.loads((versions / "3" / "lineage.json").read_text())["parent"]
    assert (parent["adapter"], parent["continued"], parent["trained_rank"]) == ("tiny@2", True, 8)


def test_another_adapter_leaves_the_votes_and_rows_as_they_are(runs) -> None:
    _, _, message = runs
    for node in ("vote-first", "tally", "prepare"):
        line = next(line for line in message[1].splitlines() if f"] {node}:" in line)
        assert "reused" in line


def test_plan_says_the_rank_and_what_a_server_needs(runs, cli) -> None:
    _, root, _ = runs
    command = ("plan", "--preset", "tiny", "--out", root / "other", "--set", "model.adapter=tiny@2")
    message = " ".join(cli(*command).stdout.split())
    assert "goes on from tiny@2, held frozen: rank 16 + 32 = 48; vLLM needs --max-lora-rank 64" in message
    assert "no new elements; its rank (32)" in " ".join(cli(*command, "--set", "model.continue=true").stdout.split())
    refused = cli(*command, "--set", "model.adapter=tiny@9")
    assert refused.returncode == 2
    assert "model.adapter: tiny@9: not in the registry" in refused.stderr


def test_settings_without_an_adapter_are_what_they_were() -> None:
    fresh = node_settings(RunConfig())
    assert not {"adapter", "continue", "adapter_source"} & set(fresh["init"]["model"])
    named = RunConfig.model_validate({"model": {"adapter": "tiny@1", "continue": True}})
    changed = {node for node, values in node_settings(named).items() if values != fresh[node]}
    assert changed == {"init", "publish"}
