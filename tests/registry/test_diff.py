"""Two versions side by side: lineage by key, weights by number."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.registry import Registry
from lorapar.registry.diff import lineage_differences, weight_difference
from lorapar.store import open_store


@pytest.fixture
def registry(tmp_path) -> Registry:
    made = Registry(open_store(tmp_path / "registry"))
    for number, rate in ((1, 0.1), (2, 0.2)):
        folder = tmp_path / f"p{number}"
        folder.mkdir()
        weights = np.ones((4, 5), np.float32)
        weights[0, 0] += number - 1
        tensors = {"a": weights, f"only{number}": np.zeros(3, np.float32)}
        save_file(tensors, folder / "adapter_model.safetensors")
        lineage = {"data": {"digest": "d"}, "settings": {"rl": {"learning_rate": rate}}, "votes": [f"v{number}"]}
        (folder / "lineage.json").write_text(json.dumps(lineage))
        made.publish("maths", folder)
    return made


def test_settings_come_first_and_equal_keys_not_at_all(registry) -> None:
    found = lineage_differences(registry, "maths@1", "maths@2")
    assert [(one.key, one.left, one.right) for one in found] == [
        ("settings.rl.learning_rate", 0.1, 0.2),
        ("votes[0]", "v1", "v2"),
    ]
    assert lineage_differences(registry, "maths@1", "maths@1") == []


def test_weights_are_counted(registry, tmp_path) -> None:
    found = weight_difference(registry, "maths@1", "maths@2", tmp_path / "scratch")
    assert (found.tensors, found.other_tensors, found.elements, found.changed) == (1, 2, 20, 1)
    assert found.largest == 1.0
    assert found.relative == pytest.approx(1 / 20**0.5)


def test_a_program_reads_keys_and_digests_uncut(registry, tmp_path) -> None:
    registry.pull("maths@2", tmp_path / "third")
    lineage = json.loads((tmp_path / "third" / "lineage.json").read_text())
    key, digest = "the_digest_of_what_the_longest_of_all_stages_has_made", "f" * 64
    lineage["data"] = {key: digest}
    (tmp_path / "third" / "lineage.json").write_text(json.dumps(lineage))
    registry.publish("maths", tmp_path / "third")
    command = ["adapters", "diff", "maths@2", "maths@3", "--registry", registry.address]
    shown = CliRunner().invoke(app, command, catch_exceptions=False).output
    assert [f"data.{key}", "–", digest] in [line.split() for line in shown.splitlines()]  # noqa: RUF001
