"""`lorapar adapters` and `lorapar gate` on the registry that a real run of the tiny preset has published into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer.testing
import yaml

from lorapar.cli import app
from lorapar.config import load_config
from lorapar.errors import BadInputError, ExitCode, NotBetterError
from lorapar.registry import Registry
from lorapar.store import open_store


@pytest.fixture
def registry(tiny_run, tmp_path, monkeypatch) -> Path:
    """A copy of the tiny run's registry that a test may change, named by the environment."""
    folder = Path(shutil.copytree(tiny_run.parent / "registry", tmp_path / "registry"))
    monkeypatch.setenv("LORAPAR_REGISTRY", str(folder))
    return folder


def message(*arguments: str | Path) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, ["adapters", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def second_version(registry: Path, tmp_path: Path) -> None:
    """A version with other settings and weights, as another run would publish it."""
    opened = Registry(open_store(registry))
    opened.pull("tiny@1", tmp_path / "second")
    lineage = json.loads((tmp_path / "second" / "lineage.json").read_text())
    lineage["settings"]["rl"]["learning_rate"] = 0.5
    (tmp_path / "second" / "lineage.json").write_text(json.dumps(lineage))
    assert opened.publish("tiny", tmp_path / "second").number == 2


def test_the_run_has_published_a_candidate_and_why_leads_to_its_settings(registry, tmp_path) -> None:
    assert "candidate 1" in message("list")
    assert "not better than the base" in message("list", "tiny")
    assert "vLLM needs --max-lora-rank" in message("show", "tiny@candidate")
    page = message("why", "tiny@candidate", "--save", tmp_path / "again.yaml")
    for title in ("verdict", "made", "base", "data", "votes", "rows", "partition", "training", "proof"):
        assert f"\n{title}" in page
    assert "by the run" in page
    again, tiny = load_config(file=tmp_path / "again.yaml"), load_config(preset="tiny")
    decides = ("name", "seed", "prompts", "voting", "adapter", "score", "partition", "sft", "rl")
    assert {key: getattr(again, key) for key in decides} == {key: getattr(tiny, key) for key in decides}
    assert again.data.digest is not None
    assert yaml.safe_load(page[page.index("name: tiny") :]) == yaml.safe_load((tmp_path / "again.yaml").read_text())


def test_promote_canary_rollback_and_diff(registry, tmp_path) -> None:
    second_version(registry, tmp_path)
    with pytest.raises(NotBetterError, match="its gate said not better"):
        message("promote", "tiny@1")
    assert message("promote", "tiny@1", "--override", "the first one").startswith(
        "tiny@production moved from no version"
    )
    assert message("promote", "tiny@1").strip() == "tiny@production already names version 1; nothing changed"
    assert "10% of the requests" in message("promote", "tiny@2", "--canary", "10")
    assert "candidate 2 (10% of the requests), production 1" in message("list")
    with pytest.raises(BadInputError, match="--override is not for --canary"):
        message("promote", "tiny@2", "--canary", "20", "--override", "a reason nobody would keep")
    assert "(10% of the requests)" in message("list"), "and nothing was changed"
    message("promote", "tiny@2", "--override", "try it")
    assert "version 1 again" in message("rollback", "tiny", "--reason", "bad answers")
    assert "bad answers" in message("why", "tiny")
    page = message("diff", "tiny@1", "tiny@2")
    assert "settings.rl.learning_rate" in page
    assert "weights: 0 of" in page


def test_pull_verify_and_gc(registry, tmp_path) -> None:
    second_version(registry, tmp_path)
    message("pull", "tiny@1", tmp_path / "here")
    assert (tmp_path / "here" / "adapter_model.safetensors").is_file()
    assert message("verify").splitlines() == ["tiny@1: whole", "tiny@2: whole"]
    assert "tiny@2: would go" in message("gc", "--keep", "0", "--grace-days", "0", "--dry-run")
    assert message("gc", "--keep", "0").strip() == "nothing to delete"
    (registry / "adapters" / "tiny" / "1" / "adapter_config.json").write_text("{}")
    result = typer.testing.CliRunner().invoke(app, ["adapters", "verify", "tiny@1"])
    assert result.exit_code == ExitCode.INTEGRITY
    assert "not those the manifest names" in result.output
    assert "tiny@2: deleted" in message("gc", "tiny", "--keep", "0", "--grace-days", "0")
    assert Registry(open_store(registry)).versions("tiny") == [1]


def test_where_the_registry_is(registry, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("LORAPAR_REGISTRY")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"which registry\?.*--registry"):
        message("list")
    settings = tmp_path / "mine.yaml"
    settings.write_text(f"registry: {{address: {registry}}}\n")
    assert message("list", "--registry", settings) == message("list", "--registry", registry)
    with pytest.raises(BadInputError, match=r"^--registry nowhere\.yaml: there is no such file"):
        message("list", "--registry", "nowhere.yaml")
    (tmp_path / "runs").mkdir()
    registry.rename(tmp_path / "runs" / "registry")
    assert "tiny" in message("list")


def test_gate_turns_a_runs_verdict_into_an_exit_code(tiny_run, cli, tmp_path) -> None:
    result = cli("gate", tiny_run)
    assert result.returncode == ExitCode.NOT_BETTER, result.stderr
    assert "Gate: tiny@1 is not better than the base model" in result.stdout
    assert "that is no gain" in result.stdout
    assert cli("gate", tmp_path).returncode == ExitCode.BAD_INPUT
