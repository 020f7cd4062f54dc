"""report: one HTML page and one JSON file about the whole run, for people and programs that were not there.

report.html needs no network and no script; metrics.json holds the same metrics (`lorapar.report.metrics`). Timings are
not known while the run is still going: the local runner writes both files again at its end.
"""

from __future__ import annotations

from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """Nothing of its own: what is shown is set in the run's plan, so that any artifacts of a run can be shown."""


SPEC = StageSpec(
    name="report",
    summary="write the report and the metrics of the run",
    settings=Settings,
    inputs=(
        *("plan", "examples", "labels", "partition", "sft", "rl"),
        *("published", "version", "evaluation", "verdict"),
    ),
    many=("votes", "scores"),
    outputs=("report",),
    image="client",
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write report.html and metrics.json."""
    from lorapar.report.page import write_report
    from lorapar.report.sources import ReportSources

    sources = ReportSources(
        plan=call.input("plan"),
        examples=call.input("examples"),
        votes=call.inputs["votes"],
        labels=call.input("labels"),
        scores=call.inputs["scores"],
        partition=call.input("partition"),
        sft=call.input("sft"),
        rl=call.input("rl"),
        published=call.input("published"),
        version=call.input("version"),
        evaluation=call.input("evaluation"),
        verdict=call.input("verdict"),
    )
    folder = call.output("report")
    write_report(sources, folder)
    return {"report_bytes": float((folder / "report.html").stat().st_size)}
