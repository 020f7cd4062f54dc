"""Which kind of processor computes the models here: their results differ in the last bits from kind to kind."""

from __future__ import annotations

from typing import Any

import torch

from lorapar.basemodel.load import default_device


def processor(*, threads: bool) -> dict[str, Any]:
    """The GPU's name, or what torch says that the CPU can do; `threads`: with the number that a CPU computes with.

    A sum over threads is rounded by their number; it matters where rounding may turn an answer.
    """
    device = default_device()
    if device.type != "cpu":
        return {"device": device.type, "name": torch.cuda.get_device_name(device)}
    said: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.12
    found: dict[str, Any] = {
        "device": "cpu",
        "chosen": torch.backends.cpu.get_cpu_capability(),
        "instructions": sorted(name for name, has in said.items() if has is True),
    }
    return found | ({"threads": torch.get_num_threads()} if threads else {})
