"""Several GPUs on a machine that has none: tensors on the CPU that say `xla:0` or `xla:1`, and an error where two meet.

For models whose layers lie on several devices. Values are computed for real; memory and speed are the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_COPYING = ("aten::_to_copy", "aten::copy_", "aten::to")
# What torch itself makes, by `like` a pretended tensor, whose device it takes for this one: fits beside any other.
_UNKNOWN = torch.device("meta")


class Pretended(torch.Tensor):
    """A tensor on the CPU (`held`) that says it is on another device."""

    held: torch.Tensor
    where: torch.device

    @staticmethod
    def __new__(cls, inner: torch.Tensor, where: torch.device) -> Pretended:
        """A wrapper of the same sizes."""
        sizes = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        kind = {"dtype": inner.dtype, "layout": inner.layout, "device": "meta", "requires_grad": False}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **sizes, **kind)  # type: ignore[attr-defined]

    def __init__(self, inner: torch.Tensor, where: torch.device) -> None:
        self.held, self.where = inner, where

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The pretended one."""
        return self.where

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """It has values."""
        return False

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """The same values, outside the graph."""
        return self.detach()

    @data.setter
    def data(self, other: Pretended) -> None:
        self.held, self.where = other.held, other.where

    def tolist(self) -> Any:
        """The values."""
        return self.held.tolist()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As any tensor, but that gradients go back to where a tensor was moved from; torch sees no other device."""
        kwargs = kwargs or {}
        if func is torch.Tensor.to and isinstance(args[0], Pretended):
            device = next((one for one in (*args[1:], *kwargs.values()) if _is_device(one)), None)
            if device is not None and torch.device(device) != args[0].device:
                moved = _Move.apply(args[0], torch.device(device))
                dtype = next((one for one in (*args[1:], *kwargs.values()) if isinstance(one, torch.dtype)), None)
                return moved if dtype is None else moved.to(dtype)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As on one device, and an error where tensors of two meet."""
        return _run(func, args, kwargs or {})


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.startswith(("xla", "cpu")))


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Pretended, device: torch.device) -> torch.Tensor:
        """The same values there."""
        context.source = tensor.device
        there = tensor.held.clone()
        return there if device.type == "cpu" else Pretended(there, device)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[Pretended, None]:  # type: ignore[override]
        """And the gradient here."""
        return Pretended(getattr(gradient, "held", gradient), context.source), None


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
    pretended = [one for one in tensors if isinstance(one, Pretended)]
    held = {one.device for one in pretended} - {_UNKNOWN}
    plain = [one for one in tensors if not isinstance(one, Pretended) and one.dim()]  # a number fits beside any
    if func._schema.name not in _COPYING and (len(held) > 1 or (held and plain)):
        raise RuntimeError(f"{func}: tensors on several devices: {[str(one.device) for one in tensors]}")
    device = next((one for one in leaves if isinstance(one, torch.device)), None)
    device = device or next(iter(held), None) or (_UNKNOWN if pretended else None)
    if func._schema.name == "aten::copy_":
        device = args[0].device
    args_here, kwargs_here = tree_map_only(Pretended, lambda one: one.held, (args, kwargs))
    args_here, kwargs_here = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args_here, kwargs_here))
    made = func(*args_here, **kwargs_here)
    if func._schema.is_mutable:
        return args[0]
    if device is None or device.type == "cpu":
        return made
    return tree_map_only(torch.Tensor, lambda one: one if isinstance(one, Pretended) else Pretended(one, device), made)


@contextmanager
def gpus(count: int, base: Any) -> Iterator[None]:
    """Within it `load_model` puts bases like this one on a pretended GPU, or spreads their layers over two."""
    layers, half = len(base.model.layers), len(base.model.layers) // 2
    first = ["model.embed_tokens", "model.rotary_emb", *(f"model.layers.{place}" for place in range(half))]
    second = [*(f"model.layers.{place}" for place in range(half, layers)), "model.norm", "lm_head"]
    placed = {**dict.fromkeys(first, "xla:0"), **dict.fromkeys(second, f"xla:{count - 1}")}
    with pytest.MonkeyPatch.context() as patch, _Factories():
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # other threads know of no pretended device
        patch.setattr("lorapar.basemodel.load.is_spread", lambda config: True)
        patch.setattr("lorapar.basemodel.load.spreading_options", lambda: {"device_map": placed})
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


def devices(tensors: Sequence[torch.Tensor]) -> set[str]:
    """Where tensors are."""
    return {str(tensor.device) for tensor in tensors}
