"""The gate's verdict for people and programs: is the new version better, why, and did production move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorapar.report.sources import Facts


def verdict_figures(facts: Facts) -> dict[str, Any] | None:
    """The key `verdict` of metrics.json; None where nothing was judged."""
    if facts.verdict is None or facts.version is None:
        return None
    return {
        "better": facts.verdict["better"],
        "reasons": list(facts.verdict["reasons"]),
        "name": facts.version["name"],
        "version": facts.version["version"],
        "incumbent": (facts.verdict["incumbent"] or {}).get("version"),
        "gain": facts.verdict["figures"]["gain"],
        "guards": facts.verdict["figures"]["guards"],
        "promoted": bool(facts.promotion and facts.promotion["promoted"]),
        "promotion": facts.promotion["reason"] if facts.promotion else None,
    }


def verdict_lines(verdict: Mapping[str, Any] | None) -> list[str]:
    """The verdict in words, the conclusion first."""
    if verdict is None:
        return []
    against = f"version {verdict['incumbent']}" if verdict["incumbent"] is not None else "the base model"
    said = "better than" if verdict["better"] else "not better than"
    lines = [f"Gate: {verdict['name']}@{verdict['version']} is {said} {against}", *verdict["reasons"]]
    if verdict["promotion"]:
        lines.append(verdict["promotion"])
    elif verdict["better"]:
        lines.append("production was not moved: gate.promote is off, or the run has not come that far")
    return [lines[0], *(f"  {line}" for line in lines[1:])]
