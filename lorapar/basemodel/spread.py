"""A base model that fits no single GPU: its layers are spread over the GPUs, and one process works with all of them.

transformers and accelerate place the layers and pass what flows through them from GPU to GPU. Training does not:
there FSDP2 shares every weight among the processes (`load_model(sharded=True)`).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.quantized import is_quantized
from lorapar.basemodel.shape import config_values, model_shape
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    import torch

USABLE = 0.9
"""Of a GPU's memory, what a base's weights may take of it; the rest is for what passes through them."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Gpus:
    """The memory of the visible GPUs, in bytes; none where there is no GPU."""

    memory: tuple[int, ...]

    @classmethod
    def here(cls) -> Gpus:
        """What torch sees."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(tuple(torch.cuda.get_device_properties(place).total_memory for place in range(count)))


def full_bytes(config: ModelConfig) -> int | None:
    """What the weights of a resolved base take in `config.dtype`; None where its sizes are not known."""
    shape = model_shape(config)
    return None if shape is None else shape.parameters * _BYTES[config.dtype]


def fits_one(config: ModelConfig, gpus: Gpus | None = None) -> bool:
    """Whether one GPU has room for the weights of a resolved base; so it is told where sizes or GPUs are not known."""
    memory = (gpus or Gpus.here()).memory
    if not memory or is_quantized(config, config_values(config)):
        return True
    needed = full_bytes(config)
    return needed is None or needed <= USABLE * min(memory)


def is_spread(config: ModelConfig, gpus: Gpus | None = None) -> bool:
    """Whether a resolved base has to be on several GPUs: it takes more than one has, and there are several.

    Raises BadInputError where all of them together do not hold it. A quantised base is on one.
    """
    memory = (gpus or Gpus.here()).memory
    if len(memory) < 2 or fits_one(config, Gpus(memory)):
        return False
    needed = full_bytes(config) or 0
    if needed > USABLE * sum(memory):
        raise BadInputError(
            f"model.name: {config.name} takes {needed / 1e9:.1f} GB in {config.dtype}, and the {len(memory)} visible "
            f"GPUs have {sum(memory) / 1e9:.1f} GB; take more or larger ones, or set model.quantization"
        )
    return True


def spreading_options(gpus: Gpus | None = None) -> dict[str, Any]:
    """What `from_pretrained` is told, so that every GPU takes its part of the layers, and nothing lies elsewhere."""
    import torch

    gc.collect()  # a base that was asked before this one refers to itself in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what torch keeps for itself would count as taken
    memory = (gpus or Gpus.here()).memory
    return {"device_map": "auto", "max_memory": {place: int(USABLE * size) for place, size in enumerate(memory)}}


def devices_of(model: torch.nn.Module) -> Mapping[str, Any]:
    """By part of the model, the device that it was put on; empty where all of it is on one."""
    placed: Mapping[str, Any] = getattr(model, "hf_device_map", {})
    return placed if len(set(placed.values())) > 1 else {}
