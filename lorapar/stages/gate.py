"""gate: is the published adapter better than the one in production? A verdict with reasons in words.

"Not better" is a result: the stage ends well, and what follows decides. The verdict is also put beside the version in
its registry. Arithmetic only; it runs in the client image.
"""

from __future__ import annotations

from lorapar.config import GateConfig
from lorapar.records import write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """What better means."""

    gate: GateConfig


SPEC = StageSpec(
    name="gate",
    summary="judge the published adapter against the one in production",
    settings=Settings,
    inputs=("evaluation", "version"),
    outputs=("verdict",),
    image="client",
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write verdict.json; the metric `promote` is 1 where production is to move."""
    from lorapar.evaluation import judge, read_outcomes
    from lorapar.registry import Incumbent, Registry, Verdict, read_published
    from lorapar.registry.verdicts import VERDICT_FILE
    from lorapar.store import open_store

    settings, published = call.settings.gate, read_published(call.input("version"))
    outcomes = read_outcomes(call.input("evaluation"), settings.rule)
    judged = judge(outcomes, settings, "incumbent" if published.incumbent else "base")
    verdict = Verdict(
        better=judged.better,
        reasons=judged.reasons,
        candidate=Incumbent(version=published.version, digest=published.digest),
        incumbent=published.incumbent,
        settings=settings.model_dump(mode="json"),
        figures=judged.model_dump(mode="json", include={"gain", "comparisons", "guards"}),
    )
    write_json(call.output("verdict") / VERDICT_FILE, verdict.model_dump(mode="json"))
    registry = Registry(open_store(published.registry))
    registry.add_verdict(registry.resolve(published.reference), verdict.model_dump(mode="json"))
    call.progress.log(f"{published.reference} is {'better' if judged.better else 'not better'}: {judged.reasons[0]}")
    return {
        "better": float(judged.better),
        "promote": float(judged.better and settings.promote),
        "difference": judged.gain.difference,
        "p_value": judged.gain.p_value,
        "rows": float(judged.gain.rows),
    }
