"""Show the gate's verdict on the version of each alias, as a metric."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lorapar.errors import LoraparError
from lorapar.registry import AliasRecord, Reference, Registry
from lorapar.registry.versions import Version
from lorapar.serving import metrics

logger = logging.getLogger(f"vllm.{__name__}")


class VerdictWatch:
    """Keeps one metric for each alias whose version has a verdict: 1 better, 0 not better."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._shown: dict[Reference, tuple[str, str, str]] = {}

    def show(self, records: Mapping[Reference, AliasRecord]) -> None:
        """Read the latest verdict on each version. Where the registry does not answer, the metrics stay."""
        for reference, record in records.items():
            version = Version(name=reference.name, number=record.version, digest=record.digest)
            try:
                verdicts = self._registry.verdicts(version)
            except LoraparError as error:
                logger.warning("%s: its verdict is not shown: %s", version, error)
                continue
            labels = (reference.name, reference.alias or "", str(record.version))
            before = self._shown.pop(reference, labels)
            if before != labels or not verdicts:
                _forget(before)
            if verdicts:
                metrics.GATE_BETTER.labels(*labels).set(float(bool(verdicts[-1].get("better"))))
                self._shown[reference] = labels


def _forget(labels: tuple[str, str, str]) -> None:
    try:
        metrics.GATE_BETTER.remove(*labels)
    except KeyError:
        return  # it had no metric
