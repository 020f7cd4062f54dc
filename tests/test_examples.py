"""What lies in examples/ runs: the notebook's cells in their order, and the plain TRL script on the tiny model.

nbclient is not among the locked packages, so the cells run here as a program of their own, without a kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorapar.basemodel import model_folder
from lorapar.config import ModelConfig, load_config
from lorapar.evaluation.transformers_engine import check_adapter_folder
from lorapar.registry import Registry
from lorapar.store import open_store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def ran(program: str | list[str], folder: Path) -> str:
    """What a program that must succeed prints."""
    given = ["-c", program] if isinstance(program, str) else program
    result = subprocess.run(
        [sys.executable, *given], capture_output=True, text=True, check=False, cwd=folder, timeout=550, env=os.environ
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, a cell each."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_notebooks_cells_run_in_their_order(tmp_path) -> None:
    message = ran("\n\n".join(cells(EXAMPLES / "quickstart.ipynb")), tmp_path)
    assert "better: False" in message
    assert "NOT_BETTER 10" in message
    registry = Registry(open_store(tmp_path / "runs" / "registry"))
    assert registry.resolve("quickstart").number == 1, "the notebook promotes it"
    check_adapter_folder(tmp_path / "runs" / "pulled")


def test_the_notebook_is_kept_without_outputs_and_is_a_notebook() -> None:
    content = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert not [cell for cell in content["cells"] if cell.get("outputs")]
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])


@pytest.mark.parametrize("script", ["plain_trl.py"])
def test_the_method_alone_trains_each_systems_elements_and_nothing_else(script: str, tmp_path) -> None:
    model = model_folder(ModelConfig(name=load_config(preset="tiny").model.name))
    options = ["--model", str(model), "--out", "adapter", "--steps", "1", "--completion", "4"]
    message = ran([str(EXAMPLES / script), *options], tmp_path)
    for system in ("system1", "system2"):
        assert f"{system}: " in message
    assert message.count("elements moved, and nothing else") == 2
    check_adapter_folder(tmp_path / "adapter")
