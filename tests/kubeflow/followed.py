"""Frames of a followed run: what Kubeflow shows of it, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lorapar.kubeflow.summary import outcome_line
from lorapar.stages.graph import node_names
from tests.kubeflow.api_double import Frame
from tests.kubeflow.argo_double import Fate

ALL = {name: "SUCCEEDED" for name in node_names() if name != "promote"}
DONE = Frame("SUCCEEDED", ALL)


def until(last: str, **more: Any) -> dict[str, Any]:
    """Every node before `last` has succeeded; `more` says what became of others."""
    names = node_names()
    return dict.fromkeys(names[: names.index(last)], "SUCCEEDED") | {
        name.replace("_", "-"): fate for name, fate in more.items()
    }


def says(**outcome: Any) -> Fate:
    """A task whose log says something of the outcome, among other lines."""
    return Fate(log=f"I1128 launcher_v2.go:151] started\n{outcome_line(outcome)}\nbye\n")


Wait = Callable[[], tuple[int, str]]
"""Starts a run and follows it: the exit code, and all that was printed."""
