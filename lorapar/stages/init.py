"""init: put a fresh LoRA adapter on the base model, with A and B non-zero, and leave the base as it is."""

from __future__ import annotations

from lorapar.config import AdapterConfig, ModelConfig
from lorapar.records import write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec


class Settings(StageSettings):
    """The base model, the adapter's shape and start, and the seed it is drawn with."""

    model: ModelConfig
    adapter: AdapterConfig
    seed: int


SPEC = StageSpec(
    name="init",
    summary="attach a fresh LoRA adapter to the base model",
    settings=Settings,
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write the adapter and, in summary.json, which base weights it was made for."""
    from lorapar.adapter import (
        AdapterSettings,
        attach,
        base_digest,
        find_targets,
        lora_parameters,
        save_adapter,
        trainable_slice,
    )
    from lorapar.basemodel import load_model

    model_config, adapter = call.settings.model, call.settings.adapter
    settings = AdapterSettings(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        layout=adapter.layout,
        init=adapter.init,
        base_model_name=model_config.name,
    )
    base = load_model(model_config, call.progress)
    targets = find_targets(base, adapter.layout)
    for note in targets.notes:
        call.progress.say(note)
    model = attach(base, settings, seed=call.settings.seed)
    save_adapter(model, call.output("adapter"))
    tensors = lora_parameters(model)
    elements = sum(trainable_slice(name, tensor, adapter.rank).numel() for name, tensor in tensors.items())
    summary = {
        "model": model_config.name,
        "revision": model_config.revision,
        "model_digest": model_config.digest,
        "base_weights_sha256": base_digest(model),
        "init": adapter.init,
        "layout": adapter.layout,
        "modules": list(targets.modules),
        "layout_notes": list(targets.notes),
        "rank": adapter.rank,
        "held_rank": settings.held_rank,
        "elements": elements,
        "tensors": len(tensors),
        "seed": call.settings.seed,
    }
    write_json(call.output("adapter") / "summary.json", summary)
    return {"elements": elements, "rank": adapter.rank, "held_rank": settings.held_rank}
