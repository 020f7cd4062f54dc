"""What a run would do, before anything starts: which nodes run, which are reused, and which digest changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorapar.local.execute import new_record
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.records import differences
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import GRAPH, Node
from lorapar.stages.plan_file import Plan


@dataclass(frozen=True)
class PlannedNode:
    """What will happen to one node."""

    node: Node
    reused: bool
    reason: str


def preview(plan: Plan, folder: RunFolder) -> list[PlannedNode]:
    """Each node in order. A node that runs again may make equal outputs; what follows it may then still be reused."""
    planned: list[PlannedNode] = []
    running: set[str] = set()
    for node in GRAPH:
        upstream = sorted({edge.node for edges in node.inputs.values() for edge in edges} & (running - {"plan"}))
        if node.stage == "plan":
            reused, reason = False, "always runs first"
        elif node.when is not None:
            reused, reason = False, f"only where {node.when.node} says so"
        elif upstream:
            reused, reason = False, f"after {', '.join(upstream)}"
        else:
            reused, reason = _state(node, plan, folder)
        if not reused and not (upstream == [] and _repeats(node, plan, folder)):
            running.add(node.name)
        planned.append(PlannedNode(node, reused, reason))
    return planned


def expected_record(node: Node, settings: Mapping[str, Any], folder: RunFolder) -> StageRecord:
    """The record a node would have if it ran now, before it has made anything; its inputs must be finished."""
    inputs = {}
    for name, edges in node.inputs.items():
        inputs[name] = [_output_digest(folder, edge.node, edge.output) for edge in edges]
    return new_record(node.name, node.stage, settings, inputs)


def changes(old: StageRecord, new: StageRecord) -> str:
    """What differs between two records, in words: settings by their key, inputs by name, code."""
    parts = [_shown(*difference) for difference in differences(old.settings, new.settings)]
    parts += [f"input {name} changed" for name in new.inputs if new.inputs[name] != old.inputs.get(name)]
    if old.code != new.code:
        parts.append("its code changed")
    return "; ".join(parts[:4]) + (f"; and {len(parts) - 4} more" if len(parts) > 4 else "")


def _state(node: Node, plan: Plan, folder: RunFolder) -> tuple[bool, str]:
    if not is_cached(node.stage):
        return False, "always runs"
    old = folder.record(node.name)
    if old is None:
        return False, "not run yet"
    new = expected_record(node, plan.sections[node.name], folder)
    if old.key != new.key:
        return False, changes(old, new)
    damage = folder.damage(old)
    return (False, f"damaged: {damage}") if damage else (True, "unchanged")


def _repeats(node: Node, plan: Plan, folder: RunFolder) -> bool:
    """Whether a node that always runs has run on the same inputs: what it makes is most likely what it made."""
    old = folder.record(node.name)
    if old is None or is_cached(node.stage) or node.stage == "plan":
        return False
    return old.key == expected_record(node, plan.sections[node.name], folder).key


def _output_digest(folder: RunFolder, node: str, output: str) -> str:
    record = folder.record(node)
    if record is None:
        raise AssertionError(f"{node} has not finished, so what reads it cannot be planned")
    return record.outputs[output]


def _shown(key: str, before: Any, after: Any) -> str:
    texts = str(before), str(after)
    begins = next((place for place, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    return f"{key} {_short(texts[0], begins)} -> {_short(texts[1], begins)}"


def _short(text: str, begins: int) -> str:
    """At most 40 characters of a value, among them the place where the two sides begin to differ."""
    if len(text) <= 40:
        return text
    start = max(0, begins - 12) if begins > 24 else 0
    return ("..." if start else "") + text[start : start + 34] + ("..." if start + 34 < len(text) else "")
