"""init: put a fresh LoRA adapter on the base model, with A and B non-zero, and leave the base as it is.

With `model.adapter` the new adapter starts beside an earlier one, which is held frozen, or goes on with its elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorapar.config import AdapterConfig, ModelConfig
from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.records import write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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
    import_at_once(*MODEL_LIBRARIES)
    from lorapar.adapter import (
        adapter_mark,
        adapter_parameters,
        base_digest,
        find_targets,
        save_adapter,
        trainable_slice,
    )
    from lorapar.basemodel import load_model, load_tokenizer, try_decoder

    model_config, adapter = call.settings.model, call.settings.adapter
    base = load_model(model_config.alone, call.progress)
    tokenizer = load_tokenizer(model_config.alone)
    try_decoder(base, tokenizer, model_config)
    targets = find_targets(base, adapter.layout) if _has_layout(call.settings) else None
    notes = targets.notes if targets is not None else ()
    for note in notes:
        call.progress.log(note)
    model, parent = _attached(call, base, str(tokenizer.chat_template))
    save_adapter(model, call.output("adapter"))
    mark, held = adapter_mark(model), model.peft_config["default"]
    tensors = adapter_parameters(model)
    elements = sum(trainable_slice(name, tensor, mark.rank).numel() for name, tensor in tensors.items())
    summary = {
        "model": model_config.name,
        "revision": model_config.revision,
        "model_digest": model_config.digest,
        "base_weights_sha256": base_digest(model),
        "init": mark.init,
        "layout": adapter.layout,
        "modules": list(targets.modules)
        if targets and not parent
        else sorted(getattr(held, "target_modules", None) or ()),
        "layout_notes": list(notes),
        **({} if adapter.kind == "lora" else {"kind": adapter.kind}),
        "rank": mark.rank,
        "held_rank": getattr(held, "r", None),
        "elements": elements,
        "tensors": len(tensors),
        "seed": call.settings.seed,
        **parent,
    }
    write_json(call.output("adapter") / "summary.json", summary)
    ranks = {"rank": mark.rank, "held_rank": held.r} if hasattr(held, "r") else {}
    return {"elements": elements, **ranks}


def _has_layout(settings: Settings) -> bool:
    """Whether the adapter sits where its layout says: not one that goes on, and none beside the modules."""
    return not settings.model.continue_ and settings.adapter.kind in ("lora", "rslora", "dora")


def _attached(call: StageCall[Settings], base: PreTrainedModel, template: str) -> tuple[PeftModel, dict[str, Any]]:
    """The base with the adapter it starts with, and what summary.json says of one that it goes on from.

    `template` is the chat template that this run asks with.
    """
    from lorapar.adapter import AdapterSettings, attach, attach_again, base_digest, read_earlier
    from lorapar.registry import start

    model, adapter = call.settings.model, call.settings.adapter
    settings = AdapterSettings(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        layout=adapter.layout,
        init=adapter.init,
        kind=adapter.kind,
        virtual_tokens=adapter.virtual_tokens,
        base_model_name=model.name,
    )
    if model.adapter is None:
        return attach(base, settings, seed=call.settings.seed), {}
    folder = start.fetch_start(model, call.scratch / "start")
    start.require_same_weights(model, folder, base_digest(base))
    unknown = start.unknown_base(model, start.start_in(folder, model.adapter))
    for note in filter(None, (unknown, start.other_template(model, folder, template))):
        call.progress.log(note)
    earlier = read_earlier(folder, model.adapter_text)
    trained = start.trained_rank(folder, earlier.rank)
    if model.continue_:
        call.progress.log(f"trains {model.adapter_text} further: rank {trained} of {earlier.rank}, no new elements")
        peft = attach_again(
            base, earlier, trained_rank=trained, dropout=adapter.dropout, base_model_name=settings.base_model_name
        )
    else:
        call.progress.log(f"goes on from {model.adapter_text}, whose rank {earlier.rank} is held frozen beside the new")
        peft = attach(base, settings, seed=call.settings.seed, earlier=earlier)
    return peft, {"parent": {"adapter": model.adapter_text, "continued": model.continue_, "rank": earlier.rank}}
