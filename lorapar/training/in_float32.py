"""A model that computes in float32 for a while, whatever its weights are in: rounding then hides nothing.

Each module's weights are widened while it runs and no longer, so that it takes the memory of one layer (and of the
output head), not of a second model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.functional import linear

from lorapar.basemodel.by_row import is_packed


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Within the block the causal model computes in float32, without a gradient; then it is as it was.

    Its head is widened for all of the block: TRL's scoring of tokens multiplies with its weights itself.
    """
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        head = model.get_output_embeddings()
        narrow = _narrow(head)
        stack.callback(_put_back, narrow)
        _widen(narrow)
        for module in model.modules():
            if module is not head:
                _prepare(module, stack)
        yield


def _prepare(module: torch.nn.Module, stack: ExitStack) -> None:
    if isinstance(module, torch.nn.Embedding):  # what is looked up is widened without loss, the table need not be
        stack.callback(module.register_forward_hook(lambda _module, _inputs, output: output.float()).remove)
    elif is_packed(module):
        own = vars(module).get("forward")
        module.forward = _unpacked(module)
        stack.callback(setattr, module, "forward", own) if own else stack.callback(delattr, module, "forward")
    elif _narrow(module):
        held: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

        def widen(_module: torch.nn.Module, _inputs: Any) -> None:
            held[:] = _narrow(module)
            _widen(held)

        def put_back(*_: Any) -> None:
            _put_back(held)

        stack.callback(put_back)
        stack.callback(module.register_forward_pre_hook(widen).remove)
        stack.callback(module.register_forward_hook(put_back).remove)


def _narrow(module: torch.nn.Module) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """A module's own weights in 16 bits, with what they hold."""
    own = module.parameters(recurse=False)
    return [(one, one.data) for one in own if one.is_floating_point() and one.dtype != torch.float32]


def _widen(held: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    for parameter, values in held:
        parameter.data = values.float()


def _put_back(held: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    for parameter, values in held:
        parameter.data = values


def _unpacked(module: torch.nn.Module) -> Any:
    """The forward pass of a layer in 8 or 4 bits with the numbers that its weights stand for."""

    def forward(states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        bias: torch.Tensor | None = getattr(module, "bias", None)
        return linear(states.float(), _numbers(module), None if bias is None else bias.float())

    return forward


def _numbers(module: Any) -> torch.Tensor:
    """The weights of a quantised layer. PEFT's own way to 8 bits leaves the layer without its scales."""
    if not hasattr(module, "compute_dtype"):
        scales = module.state.SCB if module.weight.SCB is None else module.weight.SCB
        wide: torch.Tensor = module.weight.data.float() * (scales.float()[:, None] / 127)
        return wide
    from peft.utils.integrations import dequantize_module_weight

    found: torch.Tensor = dequantize_module_weight(module).float()
    return found
