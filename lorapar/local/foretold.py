"""Lines of a plan that `lorapar plan` and Kubeflow's page share: memory by its terms with a card, and risky starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lorapar.basemodel.quantized import is_quantized
from lorapar.basemodel.shape import config_values, model_shape
from lorapar.config import RunConfig
from lorapar.local.estimate import StageMemory, cards_text, gathered_bytes

_REPORTED = {
    "pissa": "with RL its adapters were reported to collapse (arXiv 2512.23165)",
    "olora": "begins along the base's own directions, as pissa does, whose adapters were reported to collapse "
    "with RL (arXiv 2512.23165); whether olora does is unknown",
}


def reported_starts(config: RunConfig) -> list[str]:
    """What is reported of starts that decompose the base's weights, where RL goes on from them; one line or none."""
    init = config.adapter.init
    if init not in _REPORTED or "rl" not in config.methods or config.model.continue_:
        return []
    return [f"adapter.init {init}: {_REPORTED[init]}; residual is the default"]


def memory_lines(
    config: RunConfig, memory: Mapping[str, StageMemory], on_card: Mapping[str, StageMemory]
) -> dict[str, str]:
    """The terms of the stages that take most, and the card that would hold each, by stage.

    `memory` is of the device that a stage runs on, `on_card` of a GPU.
    """
    values = config_values(config.model) if memory else {}
    whole = not is_quantized(config.model, values)  # a quantised base is neither sharded nor spread
    shape = model_shape(config.model)
    gathered = gathered_bytes(shape, config.model, "cuda") if shape is not None else 0
    lines: dict[str, str] = {}
    for stage in ("score", "sft", "rl"):
        if stage not in memory or (stage != "score" and stage not in config.methods):
            continue
        how: Literal["layers", "fsdp2"] = "layers" if stage == "score" else "fsdp2"
        card = cards_text(on_card[stage], shared=how if whole else None, gathered=0 if stage == "score" else gathered)
        lines[stage] = f"{memory[stage].description}; {card}"
    return lines
