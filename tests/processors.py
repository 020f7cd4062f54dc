"""Makes torch say that this machine computes with another processor."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import torch

NUMBER_FORMAT = importlib.import_module("lorapar.basemodel.number_format")
"""The module; the package has a function of that name."""


def pretend_cpu(monkeypatch, capabilities: Mapping[str, object], bfloat16_takes: float = 0.5) -> None:
    """No GPU, and a CPU of these capabilities; `bfloat16_takes`: of float32's time for a product of matrices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(NUMBER_FORMAT, "_time_of_bfloat16", lambda: bfloat16_takes)
