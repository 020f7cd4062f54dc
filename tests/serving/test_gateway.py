"""Aliases and a canary's share as rules of a gateway."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.registry import Registry
from lorapar.serving import gateway_manifest


def rules(manifest: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By the model that a client asks for, the weight of each version."""
    return {
        match["model"]["value"]: {target["modelRewrite"]: target["weight"] for target in rule["targets"]}
        for rule in manifest["spec"]["rules"]
        for match in rule["matches"]
    }


def test_each_alias_and_the_bare_name_become_a_rule(registry: Registry) -> None:
    manifest = gateway_manifest(registry, "task", "llama-pool")
    assert (manifest["apiVersion"], manifest["kind"]) == (
        "inference.networking.x-k8s.io/v1alpha2",
        "InferenceModelRewrite",
    )
    assert manifest["metadata"]["name"] == "task"
    assert manifest["spec"]["poolRef"] == {"name": "llama-pool"}
    assert rules(manifest) == {
        "task": {"task@1": 1_000_000},
        "task@candidate": {"task@2": 1_000_000},
        "task@production": {"task@1": 1_000_000},
    }


@pytest.mark.parametrize(
    ("share_percent", "weights"),
    [
        (10.0, {"task@1": 900_000, "task@2": 100_000}),
        (0.0001, {"task@1": 999_999, "task@2": 1}),
        (0.00001, {"task@1": 1_000_000}),  # a weight of 0 is none that the resource takes
        (100.0, {"task@2": 1_000_000}),
    ],
)
def test_canary_gets_its_share_of_the_bare_name(
    registry: Registry, share_percent: float, weights: dict[str, int]
) -> None:
    registry.set_share("task", "candidate", 2, share_percent)
    found = rules(gateway_manifest(registry, "task", "pool"))
    assert found["task"] == weights
    assert found["task@production"] == {"task@1": 1_000_000}


def test_a_candidate_that_is_in_production_is_no_canary(registry: Registry) -> None:
    registry.set_share("task", "candidate", 2, 10.0)
    registry.set_alias("task", "production", 2)
    assert rules(gateway_manifest(registry, "task", "pool"))["task"] == {"task@2": 1_000_000}


def test_without_production_the_bare_name_has_no_rule(registry: Registry) -> None:
    registry.store.delete("adapters/task/aliases/production.json")
    assert sorted(rules(gateway_manifest(registry, "task", "pool"))) == ["task@candidate"]


@pytest.mark.parametrize(
    ("name", "pool", "complaint"),
    [
        ("task@1", "pool", "name it alone: task"),
        ("task@production", "pool", "name it alone: task"),
        ("other", "pool", "other: has no alias"),
        ("task", "My_Pool", "--gateway My_Pool: name the InferencePool"),
    ],
)
def test_what_cannot_be_routed_is_refused(registry: Registry, name: str, pool: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        gateway_manifest(registry, name, pool)


def test_export_prints_it_and_takes_one_form_at_a_time(registry: Registry) -> None:
    where = ["--registry", registry.address]
    shown = CliRunner().invoke(app, ["export", "task", "--gateway", "pool", *where])
    assert yaml.safe_load(shown.output) == gateway_manifest(registry, "task", "pool")
    both = CliRunner().invoke(app, ["export", "task", "--gateway", "pool", "--kserve", *where])
    assert "one format at a time" in str(both.exception)
