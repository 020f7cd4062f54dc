"""Which linear modules of a model carry LoRA.

The paper's layouts (section 4, table 3) name projections by letter: Q, K, V of attention, G(ate), U(p), D(own) of the
MLP. Llama, Qwen2, Qwen3 and Mistral share the same module names for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorapar.errors import BadInputError, nearest

_ATTENTION = ("q_proj", "k_proj", "v_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
LAYOUTS: dict[str, tuple[str, ...]] = {"QKVGUD": _ATTENTION + _MLP, "QKV": _ATTENTION, "GUD": _MLP}


def resolve_layout(model: torch.nn.Module, layout: str | Sequence[str]) -> tuple[str, ...]:
    """Module names (the last part of the path, e.g. 'q_proj') that a layout means in this model.

    Args:
        model: the base model; 4-bit linear layers count as linear.
        layout: 'QKVGUD', 'QKV', 'GUD', or the module names themselves.

    Raises:
        BadInputError: the layout is unknown, or the model lacks one of its modules.
    """
    wanted = _names_of(layout)
    present = linear_module_names(model)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise BadInputError(
            f"layout {layout!r} needs the linear modules {', '.join(missing)}, which {type(model).__name__} lacks; "
            f"its linear modules are {', '.join(present) or 'none'}: choose another adapter.layout (QKVGUD, QKV, GUD) "
            "or another model"
        )
    return wanted


def linear_module_names(model: torch.nn.Module) -> tuple[str, ...]:
    """The distinct last path parts of all linear modules, sorted; the output head is left out."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    names = {
        path.rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return tuple(sorted(names))


def _names_of(layout: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(layout, str):
        names = tuple(layout)
        if not names:
            raise BadInputError("the layout names no module: give at least one, or one of " + ", ".join(LAYOUTS))
        return names
    if layout not in LAYOUTS:
        raise BadInputError(
            f"unknown layout '{layout}'{nearest(layout, list(LAYOUTS))}: choose {', '.join(LAYOUTS)} "
            "or a list of module names"
        )
    return LAYOUTS[layout]
