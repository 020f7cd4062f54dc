"""lorapar as a library: cheap to import, typed, and its errors carry the documented exit codes."""

from __future__ import annotations

import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lorapar
from lorapar.config import checked_again
from lorapar.errors import BadInputError, ExitCode

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = "import json, sys; import lorapar; print(json.dumps(sorted(sys.modules)))"


def test_importing_it_imports_nothing_else() -> None:
    ended = subprocess.run([sys.executable, "-S", "-c", IMPORTED], capture_output=True, text=True, cwd=ROOT, check=True)
    modules = json.loads(ended.stdout)
    assert [name for name in modules if name.startswith("lorapar")] == ["lorapar"]
    assert not {"pydantic", "yaml", "typer", "rich", "torch", "numpy"} & set(modules)


@pytest.mark.parametrize("name", sorted({*lorapar.__all__} - {"__version__"}))
def test_every_name_is_there_documented_and_on_its_page(name: str) -> None:
    assert name in dir(lorapar)
    assert getattr(lorapar, name).__doc__
    assert f"`{name}" in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_page_names_every_method_of_a_registry() -> None:
    methods = {name for name, _ in inspect.getmembers(lorapar.Registry, inspect.isfunction) if not name.startswith("_")}
    shown = set(re.findall(r"`registry\.(\w+)\(", (ROOT / "docs" / "python.md").read_text(encoding="utf-8")))
    assert shown == methods


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lorapar.trian  # noqa: B018


def test_a_wrong_setting_raises_with_the_exit_code_of_the_command(tmp_path) -> None:
    with pytest.raises(lorapar.LoraparError, match="did you mean 'learning_rate'") as raised:
        lorapar.run({"rl": {"lerning_rate": 1}}, out=tmp_path / "run")
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    with pytest.raises(BadInputError, match=r"nowhere\.yaml"):
        lorapar.run("nowhere.yaml", out=tmp_path / "run")
    with pytest.raises(BadInputError, match="did you mean 'partition'"):
        lorapar.run(lorapar.load_config(preset="tiny"), out=tmp_path / "run", until="partiton")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"sed": 3}, r"^config: sed: no such key \(did you mean 'seed'\?\)$"),
        ({"seed": "x"}, r"^config: seed: must be a whole number.* \(got 'x'\)$"),
        ({"sft": {"epocs": 2}}, r"^config: sft\.epocs: no such key \(did you mean 'epochs'\?\)$"),
        ({"sft": lorapar.load_config().sft.model_copy(update={"epocs": 2})}, r"^config: sft\.epocs: no such key"),
        ({"seed": object()}, r"^config: holds what no setting can be \(.*object"),
    ],
)
def test_a_copy_with_a_mistake_is_refused_in_one_line(tmp_path, update: dict[str, object], message: str) -> None:
    config = lorapar.load_config(preset="tiny").model_copy(update=update)
    with pytest.raises(BadInputError, match=message):
        lorapar.run(config, out=tmp_path / "run")


def test_a_right_copy_is_taken_as_it_is() -> None:
    config = lorapar.load_config(preset="tiny")
    changed = config.model_copy(update={"sft": config.sft.model_copy(update={"epochs": 2.0})})
    assert checked_again(changed, "config") is changed
    assert checked_again(config.model_copy(update={"sft": {"epochs": 2}}), "config").sft.epochs == 2


def test_a_run_says_nothing_unless_asked_and_goes_on_where_it_ended(tmp_path, capsys) -> None:
    config, message = lorapar.load_config(preset="tiny"), io.StringIO()
    result = lorapar.run(config, out=tmp_path / "run", until="prepare")
    assert capsys.readouterr().out == ""
    assert (result.better, result.adapter) == (None, None)
    assert result.report.is_file()
    lorapar.run(config, out=tmp_path / "run", until="prepare", progress=message)
    assert "prepare: reused, nothing it depends on has changed" in message.getvalue()


@pytest.fixture
def registry(tiny_run, tmp_path) -> lorapar.Registry:
    """A copy of the tiny run's registry that a test may change."""
    return lorapar.Registry(shutil.copytree(tiny_run.parent / "registry", tmp_path / "registry"))


def test_a_finished_run_is_found_again(tiny_copy) -> None:
    result = lorapar.run(lorapar.load_config(preset="tiny"), out=tiny_copy, until="partition")
    assert result.folder == tiny_copy
    assert result.metrics["timings"]


def test_a_registry_is_looked_into_and_moved(registry, tmp_path) -> None:
    (row,) = registry.adapters()
    assert (row.name, row.latest) == ("tiny", 1)
    assert registry.versions("tiny")[0].names == ("candidate",)
    facts = registry.show("tiny@1")
    assert facts.max_lora_rank is not None
    assert facts.rank is not None
    assert facts.max_lora_rank >= facts.rank
    assert registry.lineage("tiny@1")["base"]["name"] == "builtin:tiny"
    assert registry.verdicts("tiny@1")[-1]["better"] is False
    with pytest.raises(lorapar.LoraparError) as refused:
        registry.promote("tiny@1")
    assert refused.value.exit_code == ExitCode.NOT_BETTER
    assert registry.promote("tiny@1", override="the first one").startswith("tiny@production moved")
    assert [move.reason for move in registry.history("tiny")] == ["by hand: the first one"]
    again = registry.pull("tiny", tmp_path / "pulled")
    assert registry.publish("tiny", tmp_path / "pulled") == again, "the same content is the same version"
    assert all(found.fault is None for found in registry.verify())


def test_pull_replaces_an_adapter_and_nothing_else(registry, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match="holds other things than an adapter"):
        registry.pull("tiny@1", tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
