"""A recurring run that goes on from production does not take its own promotion for something new."""

from __future__ import annotations

import pytest

from lorapar.config import RunConfig
from lorapar.kubeflow.ledger import Ledger, equal_key, equal_run, keep_equal
from lorapar.stages.plan import node_settings
from lorapar.stages.plan_file import Plan
from lorapar.store import open_store


def plan_from(registry, adapter: str, version: int, name: str = "mine") -> Plan:
    source = {"registry": str(registry), "version": version, "digest": str(version) * 64, "rank": 16}
    model = {"name": "builtin:tiny", "dtype": "float32", "adapter": adapter, "adapter_source": source}
    config = RunConfig.model_validate({"name": name, "model": model, "registry": {"address": str(registry)}})
    return Plan(version="1", created="today", config=config, sections=node_settings(config))


@pytest.mark.parametrize(
    ("adapter", "equal"), [("mine@production", "run-1"), ("mine", "run-1"), ("mine@candidate", None), ("mine@2", None)]
)
def test_what_counts_as_changed(tmp_path, monkeypatch, adapter, equal) -> None:
    ledger = Ledger(open_store(str(tmp_path / "store")), "run-1")
    before = plan_from(tmp_path / "registry", adapter, 1)
    verdict = {"incumbent": {"version": 1}, "candidate": {"version": 2}}
    keep_equal(ledger, equal_key(before), verdict, promoted=True)
    monkeypatch.setattr("lorapar.kubeflow.ledger._production", lambda plan: 2)
    assert equal_run(ledger, plan_from(tmp_path / "registry", adapter, 2)) == equal
    monkeypatch.setattr("lorapar.kubeflow.ledger._production", lambda plan: 1)
    assert equal_run(ledger, plan_from(tmp_path / "registry", adapter, 2)) is None, "somebody moved production"
