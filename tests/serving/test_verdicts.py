"""What the gate said about the versions in use, in the server's metrics."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY as SHOWN

from lorapar.errors import UnreachableError
from lorapar.registry import Reference, Registry
from lorapar.serving.verdicts import VerdictWatch

PRODUCTION, CANDIDATE = Reference("task", alias="production"), Reference("task", alias="candidate")


def shown(alias: str, version: int) -> float | None:
    labels = {"adapter": "task", "alias": alias, "version": str(version)}
    return SHOWN.get_sample_value("lorapar_serving_gate_better", labels)


def show(watch: VerdictWatch, registry: Registry) -> None:
    """As the follower does, with what the aliases name now."""
    records = {alias: registry.read_alias("task", alias.alias or "") for alias in (PRODUCTION, CANDIDATE)}
    watch.show({alias: record for alias, record in records.items() if record is not None})


def test_the_latest_verdict_on_the_version_of_each_alias_is_shown(registry: Registry) -> None:
    watch = VerdictWatch(registry)
    registry.add_verdict(registry.resolve("task@1"), {"better": True})
    registry.add_verdict(registry.resolve("task@2"), {"better": True, "reasons": ["first"]})
    registry.add_verdict(registry.resolve("task@2"), {"better": False, "reasons": ["second"]})
    show(watch, registry)
    assert (shown("production", 1), shown("candidate", 2)) == (1.0, 0.0)


def test_a_version_without_a_verdict_has_no_line(registry: Registry) -> None:
    show(VerdictWatch(registry), registry)
    assert (shown("production", 1), shown("candidate", 2)) == (None, None)


def test_the_line_follows_its_alias(registry: Registry) -> None:
    watch = VerdictWatch(registry)
    registry.add_verdict(registry.resolve("task@1"), {"better": False})
    registry.add_verdict(registry.resolve("task@2"), {"better": True})
    show(watch, registry)
    registry.set_alias("task", "production", 2)
    show(watch, registry)
    assert (shown("production", 1), shown("production", 2)) == (None, 1.0)


def test_a_silent_registry_leaves_the_lines(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = VerdictWatch(registry)
    registry.add_verdict(registry.resolve("task@1"), {"better": True})
    show(watch, registry)

    def silent(_: object) -> None:
        raise UnreachableError("s3: no answer")

    records = {PRODUCTION: registry.read_alias("task", "production")}
    monkeypatch.setattr(registry, "verdicts", silent)
    watch.show({alias: record for alias, record in records.items() if record})
    assert shown("production", 1) == 1.0


@pytest.fixture(autouse=True)
def _no_lines_of_other_tests() -> None:
    from lorapar.serving import metrics

    metrics.GATE_BETTER.clear()
