"""The stage report: from whatever folders it is given to two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorapar.config import load_config
from lorapar.records import write_json
from lorapar.stages.contract import stage_spec
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import make_plan
from lorapar.store import seal


def folders(root: Path) -> dict[str, Any]:
    """The inputs of the stage: a real plan, and sealed folders that hold nothing yet."""
    spec = stage_spec("report")
    made: dict[str, Any] = {}
    for name in (*spec.inputs, *spec.many):
        path = root / name
        path.mkdir(parents=True)
        if name == "plan":
            plan = make_plan(load_config(preset="tiny"))
            write_json(path / "plan.json", plan.model_dump(mode="json"))
        seal(path, "test")
        made[name] = (path,) if name in spec.many else path
    return made


def test_it_takes_what_the_graph_gives_it() -> None:
    spec = stage_spec("report")
    (node,) = [node for node in GRAPH if node.stage == "report"]
    assert set(node.inputs) == {*spec.inputs, *spec.many}
    assert {name for name, edges in node.inputs.items() if len(edges) > 1} == set(spec.many)


def test_it_writes_report_and_metrics(kit: Any, tmp_path: Path) -> None:
    metrics, out = kit.run("report", tmp_path / "out", {}, folders(tmp_path / "in"))
    page = (out / "report/report.html").read_text(encoding="utf-8")
    assert metrics["report_bytes"] == len(page.encode("utf-8"))
    assert "<h1>tiny</h1>" in page
    assert "This run did not get that far: no adapter was published" in page
    assert json.loads((out / "report/metrics.json").read_text(encoding="utf-8"))["name"] == "tiny"
