"""`adapters compact`: a smaller rank is a new version, proved against the one it comes from, or none at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer.testing
from peft import PeftModel

from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import load_model
from lorapar.cli import app
from lorapar.errors import BadInputError, ExitCode, IntegrityError, NotBetterError
from lorapar.progress import Silent
from lorapar.registry import Lineage, Proof, Publication, Registry, publish_adapter
from lorapar.store import open_store, seal


@pytest.fixture(scope="module")
def packable(base, origins, tmp_path_factory) -> Path:
    """A registry: `packable@1` has rank 8, but only B moved, so that rank 4 holds it; of `full@1` A moved, too."""
    root = tmp_path_factory.mktemp("compact")
    registry = Registry(open_store(root / "registry"))
    for name, moved in {"packable": ("lora_B",), "full": ("lora_A", "lora_B")}.items():
        model = attach(load_model(base), AdapterSettings(rank=4, base_model_name="builtin:tiny"), seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if any(one in parameter_name for one in moved):
                    half = parameter[:4] if "lora_A" in parameter_name else parameter[:, :4]
                    half.add_(0.2 * torch.randn(half.shape, generator=generator))
        save_adapter(model, root / name)
        seal(root / name, "rl.adapter")
        settings = {"seed": 0, "model": {"name": "builtin:tiny", "dtype": "float32"}, "adapter": {"rank": 4}}
        publication = Publication(name, base, replace(origins, adapter=root / name), settings, {"version": "0.1"})
        publish_adapter(publication, registry, root / "scratch", Proof([], Silent(), run="host:/runs/a"))
    return root / "registry"


@pytest.fixture
def registry(packable, tmp_path, monkeypatch) -> Registry:
    """A copy that a test may change, named by the environment."""
    folder = shutil.copytree(packable, tmp_path / "registry")
    monkeypatch.setenv("LORAPAR_REGISTRY", str(folder))
    return Registry(open_store(folder))


def compact(*arguments: str) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(
        app, ["adapters", "compact", "--no-gate", *arguments], catch_exceptions=False
    )
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def test_an_adapter_of_the_trained_rank_is_a_version_that_answers_the_same(registry, base, tmp_path) -> None:
    message = compact("packable@1")
    assert "rank 8 to 4" in message
    assert "packable@2" in message
    version = registry.resolve("packable@2")
    assert registry.claim(version).verification["max_logit_difference"] <= 1e-4
    registry.pull("packable@2", tmp_path / "pulled")
    config = json.loads((tmp_path / "pulled" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4 * registry_scale(registry, tmp_path))
    lineage = Lineage.model_validate_json((tmp_path / "pulled" / "lineage.json").read_text())
    assert lineage.compacted is not None
    assert lineage.compacted["digest"] == registry.resolve("packable@1").digest
    assert lineage.serving["rank"] == 4
    assert "packed into rank 4" in (tmp_path / "pulled" / "README.md").read_text()
    PeftModel.from_pretrained(load_model(base), str(tmp_path / "pulled"))
    # Nothing is served because it was packed: no alias names it, and no gate has judged it.
    assert {record.version for record in registry.aliases("packable").values()} == {1}
    assert registry.verdicts(version) == []
    assert "has this content already" in compact("packable@1")
    with pytest.raises(BadInputError, match="rank is 4, which is what was trained"):
        compact("packable@2")


def registry_scale(registry: Registry, tmp_path: Path) -> float:
    """What the product of the first version is multiplied by."""
    registry.pull("packable@1", tmp_path / "first")
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    return config["lora_alpha"] / config["r"]


def test_one_that_would_answer_otherwise_is_refused_and_says_which_rank_would_do(registry) -> None:
    with pytest.raises(IntegrityError, match=r"in rank 1 does not .* than --max-kl 1e-09.* from --rank 4$"):
        compact("full@1", "--rank", "1", "--max-kl", "1e-9")
    assert registry.versions("full") == [1]
    assert "is lost" in compact("full@1", "--dry-run")
    assert registry.versions("full") == [1]


def test_a_loss_that_is_allowed_is_reported_by_module_and_kept_in_the_lineage(registry) -> None:
    message = compact("full@1", "--rank", "2", "--max-kl", "100")
    assert "full@2" in message
    lineage = registry.read_json_file(registry.resolve("full@2"), "lineage.json")
    assert 0 < lineage["compacted"]["largest_relative_error"] < 1
    assert f"{100 * lineage['compacted']['largest_relative_error']:.3g}% of its norm" in why("full@2")


def why(ref: str) -> str:
    return typer.testing.CliRunner().invoke(app, ["adapters", "why", ref], catch_exceptions=False).output


def test_a_bound_that_bounds_nothing_is_refused(registry) -> None:
    with pytest.raises(BadInputError, match="--max-kl"):
        compact("packable@1", "--max-kl", "inf")


@pytest.fixture
def tiny_registry(tiny_run, tmp_path, monkeypatch) -> Registry:
    """A copy of the tiny run's registry: `tiny@1`, of rank 4, whose run is there."""
    folder = shutil.copytree(tiny_run.parent / "registry", tmp_path / "trained")
    monkeypatch.setenv("LORAPAR_REGISTRY", str(folder))
    return Registry(open_store(folder))


def gated(*arguments: str | Path) -> str:
    options = ["adapters", "compact", "tiny@1", "--rank", "2", "--max-kl", "100", *map(str, arguments)]
    result = typer.testing.CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def test_the_gate_asks_both_the_held_out_rows_of_the_run(tiny_registry, tiny_run, monkeypatch) -> None:
    message = gated()  # the run is found where the claim of tiny@1 says
    assert "gate, tiny@2 against tiny@1: system" in message
    found = tiny_registry.claim(tiny_registry.resolve("tiny@2")).verification["gate"]
    verdict = json.loads((tiny_run / "stages" / "gate" / "verdict" / "verdict.json").read_text())
    assert found["gain"]["rows"] == verdict["figures"]["gain"]["rows"]
    assert found["against"] == "incumbent"
    # Nothing is judged twice, and nothing of the run has moved.
    assert "tiny@2 has this content already" in gated()


def test_what_the_paired_test_finds_worse_is_not_published(tiny_registry, tiny_run, monkeypatch) -> None:
    import lorapar.local.gate_again as module

    def worse(folder: Path, rule: str) -> dict:
        rows = {str(number): True for number in range(20)}
        models = {"base": rows, "after_sft": rows, "after_rl": dict.fromkeys(rows, False)}
        return {"system1": models, "system2": models}

    monkeypatch.setattr(module, "read_outcomes", worse)
    with pytest.raises(
        NotBetterError, match=r"tiny@1 packed is worse than it was, so it is not published: system2 changed by"
    ):
        gated("--run", tiny_run)
    assert tiny_registry.versions("tiny") == [1]


def test_a_run_that_is_not_here_or_another_one_is_reported(
    tiny_registry, registry, tiny_run, monkeypatch, tmp_path
) -> None:
    with pytest.raises(BadInputError, match="not the run that published packable@1"):
        typer.testing.CliRunner().invoke(
            app, ["adapters", "compact", "packable@1", "--run", str(tiny_run)], catch_exceptions=False
        )
    with pytest.raises(BadInputError, match=r"its run \(host:/runs/a\) is not here .*--no-gate"):
        typer.testing.CliRunner().invoke(app, ["adapters", "compact", "packable@1"], catch_exceptions=False)
