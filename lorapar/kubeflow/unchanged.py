"""Whether a run would only repeat an earlier one. Most recurring runs find nothing new.

unchanged/<digest>.json    the run that succeeded with these settings, data, model, code and images, and the version it
left in production
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lorapar import __version__
from lorapar.kubeflow.ledger import Ledger
from lorapar.records import digest_of, json_text
from lorapar.stages.code import code_digest, own_code_digest
from lorapar.stages.contract import STAGE_NAMES
from lorapar.stages.plan_file import Plan
from lorapar.store import NotFoundError, open_store


def equal_run(ledger: Ledger, plan: Plan) -> str | None:
    """An earlier equal run; None where something differs or `production` has moved since."""
    try:
        kept = json.loads(ledger.store.read(equal_key(plan)))
    except (NotFoundError, ValueError):
        return None
    same = kept["production"] == _production(plan)
    return str(kept["run"]) if same else None


def keep_equal(ledger: Ledger, key: str, verdict: Mapping[str, Any] | None, promoted: bool) -> None:
    """Note that a run succeeded, and which version it left in production: its own, or the one its gate saw.

    `key` is what `equal_key` returned when the run was planned.
    """
    if verdict is None or "incumbent" not in verdict:
        return
    version = verdict["candidate"] if promoted else verdict["incumbent"]
    kept = {"run": ledger.run, "production": version["version"] if version else None}
    ledger.store.write(key, json_text(kept).encode())


def equal_key(plan: Plan) -> str:
    """The key under which a run notes its success. The settings of every stage hold digests of model and data."""
    code = {stage: code_digest(f"lorapar.stages.{stage}") for stage in STAGE_NAMES}
    own = {node: own_code_digest(settings) for node, settings in plan.sections.items()}
    made_of = {"settings": _sections(plan), "version": __version__, "code": code, "own": own}
    return f"unchanged/{digest_of({**made_of, 'images': os.environ.get('LORAPAR_IMAGES', '')})}.json"


def _sections(plan: Plan) -> dict[str, Any]:
    """The settings of the stages. The version that `model.adapter` found is left out where it is this adapter's own
    production: that moves with every better run, and is compared separately."""
    from lorapar.registry import PRODUCTION, parse_reference, start

    adapter = plan.config.model.adapter
    if adapter is None or start.kind_of(adapter) is not start.Kind.REGISTRY:
        return plan.sections
    asked = parse_reference(adapter)
    if (asked.name, asked.alias) != (plan.config.name, PRODUCTION):
        return plan.sections
    moving = ("model", "adapter_source")
    return {
        node: {**values, moving[0]: {key: value for key, value in values[moving[0]].items() if key != moving[1]}}
        if moving[0] in values
        else values
        for node, values in plan.sections.items()
    }


def _production(plan: Plan) -> int | None:
    from lorapar.registry import PRODUCTION, Registry

    address = plan.config.registry.address
    record = Registry(open_store(address)).read_alias(plan.config.name, PRODUCTION) if address else None
    return record.version if record is not None else None
