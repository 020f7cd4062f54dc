"""`auto` for number formats: what torch computes fast where a run's models are computed.

bfloat16 where the processor computes it natively and a CPU multiplies matrices in it at least as fast as in float32,
else float32. A CPU that only emulates bfloat16 takes about three times as long for it; one with instructions for it may
still take twice as long (docs/speed.md). A run settles this once, before anything starts, and everything after that
sees only what it came to.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorapar.config import ModelConfig, TeacherConfig

NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls native bfloat16 on x86 (the first two) and on Arm."""


@dataclass(frozen=True)
class NumberFormat:
    """What `auto` stands for, and why."""

    dtype: Literal["float32", "bfloat16"]
    description: str
    """The format and the reason, as people read it."""

    def of_model(self, model: ModelConfig) -> ModelConfig:
        """The model with this in place of `auto`; what is set otherwise stays."""
        found: dict[str, str] = {}
        if model.dtype == "auto":
            found["dtype"] = self.dtype
        if model.autocast == "auto":
            found["autocast"] = "bfloat16" if self.dtype == "bfloat16" else "none"
        return model.model_copy(update=found) if found else model

    def of_teacher(self, teacher: TeacherConfig) -> TeacherConfig:
        """The same for a teacher."""
        return teacher.model_copy(update={"dtype": self.dtype}) if open_in_teacher(teacher) else teacher


def open_in_model(model: ModelConfig) -> bool:
    """Whether a format of the model is left to the machine."""
    return "auto" in (model.dtype, model.autocast)


def open_in_teacher(teacher: TeacherConfig) -> bool:
    """Whether a teacher's format is left to the machine; an endpoint's is not known here and not asked for."""
    return teacher.dtype == "auto" and teacher.backend != "openai"


def number_format(accelerators: bool | None = None) -> NumberFormat:
    """What `auto` stands for.

    `accelerators`: None where models are computed on this machine, on its GPU if it has one; True where other machines
    with accelerators do it; False where other machines without do it, whose CPUs are taken to be like this one's.
    """
    if accelerators:
        return NumberFormat("bfloat16", "bfloat16: the stages run on accelerators")
    try:
        import torch
    except ImportError:
        return NumberFormat("float32", "float32: no torch is here to ask whether the CPU computes bfloat16 natively")
    if accelerators is None and torch.cuda.is_available():
        return _found(torch.cuda.is_bf16_supported(including_emulation=False), "GPU")
    native = any(_cpu_capabilities().get(name) for name in NATIVE)
    if native and _time_of_bfloat16() > 1:
        return NumberFormat("float32", "float32, faster on this CPU than bfloat16")
    return _found(native, "CPU")


def require_settled(model: ModelConfig) -> None:
    """Models are loaded after the plan: `auto` here is a mistake in the code, not in the settings."""
    if open_in_model(model):
        raise AssertionError(f"{model.name} reached a loader with dtype {model.dtype}, autocast {model.autocast}")


def _found(native: bool, processor: str) -> NumberFormat:
    if native:
        return NumberFormat("bfloat16", f"bfloat16, which this {processor} computes natively")
    return NumberFormat("float32", f"float32: this {processor} only emulates bfloat16")


@functools.cache
def _time_of_bfloat16(turns: int = 7) -> float:
    """How long a layer's product takes on this CPU in bfloat16, as a multiple of its time in float32.

    Of turns that alternate the shortest count, so that other work on the machine changes little: on an Intel CPU with
    `avx512_bf16` alone it was 1.5 to 1.8, idle or busy. Takes a tenth of a second.
    """
    import torch

    formats = (torch.float32, torch.bfloat16)
    pairs = [(torch.ones(256, 1024, dtype=one), torch.ones(1024, 1024, dtype=one)) for one in formats]
    shortest = [float("inf")] * len(pairs)
    with torch.no_grad():
        for _ in range(turns):
            for place, (states, weights) in enumerate(pairs):
                begun = time.perf_counter()
                torch.nn.functional.linear(states, weights)
                shortest[place] = min(shortest[place], time.perf_counter() - begun)
    return shortest[1] / shortest[0]


def _cpu_capabilities() -> Mapping[str, Any]:
    """What torch says that this machine's CPU can do."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return found
    # Before torch 2.12 it says these two only.
    return {
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
    }
