"""promote: move the alias `production` to a version that its gate found better, if it still names what the gate saw.

Runs only after such a verdict. Where the alias has moved meanwhile nothing is changed and the stage ends with exit
code 11. A version that a person took out of production by a rollback is not put back by a run.
"""

from __future__ import annotations

from lorapar.errors import NotBetterError, StaleError
from lorapar.records import write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """None: what to move where is in the verdict."""


SPEC = StageSpec(
    name="promote",
    summary="move the alias production to a better version",
    settings=Settings,
    inputs=("verdict", "version"),
    outputs=("promotion",),
    image="client",
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write promotion.json."""
    from lorapar.registry import PRODUCTION, Registry, promote, read_published, read_verdict
    from lorapar.registry.verdicts import PROMOTION_FILE
    from lorapar.store import open_store

    published, verdict = read_published(call.input("version")), read_verdict(call.input("verdict"))
    if not verdict.better:
        raise NotBetterError(f"{published.reference}: its verdict is 'not better', so {PRODUCTION} stays where it is")
    try:
        promotion = promote(Registry(open_store(published.registry)), published, verdict)
    except StaleError as error:
        raise StaleError(f"gate stale: {error}") from None
    write_json(call.output("promotion") / PROMOTION_FILE, promotion.model_dump(mode="json"))
    call.progress.log(promotion.reason)
    return {"promoted": float(promotion.promoted), "version": float(promotion.version)}
