"""Which stage runs after which: the one drawing that the local runner follows and the compiled pipeline must match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Edge:
    """An output of an earlier node; in a condition, a metric of it."""

    node: str
    output: str


@dataclass(frozen=True)
class Node:
    """One call of a stage within a run; `name` differs from `stage` where a stage is called more than once."""

    name: str
    stage: str
    inputs: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    when: Edge | None = None
    """A metric of an earlier node: this one runs only where that is not 0. None: always."""


def _node(
    name: str, stage: str, parameters: Mapping[str, Any] | None = None, *, when: str | None = None, **inputs: str
) -> Node:
    """Edges are written `node.output`, several separated by spaces; a condition as `node.metric`."""
    edges = {key: tuple(Edge(*one.split(".")) for one in text.split()) for key, text in inputs.items()}
    return Node(name, stage, edges, parameters or {}, Edge(*when.split(".")) if when else None)


GRAPH: tuple[Node, ...] = (
    _node("plan", "plan"),
    _node("prepare", "prepare"),
    _node("vote-first", "vote", {"round": "first"}, examples="prepare.examples"),
    _node("tally-first", "tally", {"round": "first"}, examples="prepare.examples", votes="vote-first.votes"),
    _node("vote-rest", "vote", {"round": "rest"}, examples="tally-first.undecided"),
    _node("tally", "tally", {"round": "rest"}, examples="prepare.examples", votes="vote-first.votes vote-rest.votes"),
    _node("init", "init"),
    _node("score-system1", "score", {"system": "system1"}, adapter="init.adapter", rows="tally.system1"),
    _node("score-system2", "score", {"system": "system2"}, adapter="init.adapter", rows="tally.system2"),
    _node("partition", "partition", scores="score-system1.scores score-system2.scores"),
    _node(
        "sft",
        "sft",
        adapter="init.adapter",
        partition="partition.sft",
        system1="tally.system1",
        system2="tally.system2",
    ),
    _node(
        "rl",
        "rl",
        adapter="sft.adapter",
        partition="partition.partition",
        system1="tally.system1",
        system2="tally.system2",
    ),
    _node(
        "publish",
        "publish",
        adapter="rl.adapter",
        examples="prepare.examples",
        votes="vote-first.votes vote-rest.votes",
        labels="tally.labels",
        partition="partition.partition",
    ),
    _node(
        "evaluate",
        "evaluate",
        heldout="tally.heldout",
        after_sft="sft.adapter",
        published="publish.adapter",
        incumbent="publish.incumbent",
    ),
    _node("execute", "execute", evaluation="evaluate.evaluation"),
    _node("gate", "gate", evaluation="execute.evaluation", version="publish.version"),
    _node("promote", "promote", when="gate.promote", verdict="gate.verdict", version="publish.version"),
    _node(
        "report",
        "report",
        plan="plan.plan",
        examples="prepare.examples",
        votes="vote-first.votes vote-rest.votes",
        labels="tally.labels",
        scores="score-system1.scores score-system2.scores",
        partition="partition.partition",
        sft="sft.adapter",
        rl="rl.adapter",
        published="publish.adapter",
        version="publish.version",
        evaluation="execute.evaluation",
        verdict="gate.verdict",
    ),
)


def node_names() -> list[str]:
    """Names of all nodes, in the order they run."""
    return [node.name for node in GRAPH]
