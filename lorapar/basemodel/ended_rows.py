"""Rows that have ended need no forward pass while `generate` goes on with the others of their batch.

In narrow number formats other rows beside it may turn a row's answer. Whether they do is a question of the matrix
products of this processor, and `products_go_by_row` asks them. `fewest_rows` is the rule that evaluation and RL follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorapar.basemodel.by_row import has_stretched_positions, is_exact, is_packed

_WORTH = 1 / 8
"""Share of the rows that must have ended for the others to be copied out of the cache."""
_FEWEST_NARROW = 2
"""Rows that stay in a narrow format: one by itself is no product of matrices, and is summed up in another order."""
_TRIED_ROWS = (2, 3, 4, 5, 7, 8, 15, 16, 24, 31)
_ALL_ROWS = 32


def fewest_rows(model: torch.nn.Module, *, autocast: bool) -> int | None:
    """How many rows must stay so that leaving out others changes no answer; None where no row may be left out.

    Asked in the number format that the model is then run in. Caches on several devices are not rearranged.
    """
    parameters = list(model.parameters())
    if any(one.device != parameters[0].device for one in parameters):
        return None
    if is_exact(model, autocast=autocast):
        return 1
    return _FEWEST_NARROW if not has_stretched_positions(model) and products_go_by_row(model) else None


@torch.inference_mode()
def products_go_by_row(model: torch.nn.Module) -> bool:
    """Whether each row of a matrix product has the same bits with one other row beside it as with many, on a CPU.

    Tried with each shape among the model's linear layers, in the number format that is set (autocast included). oneDNN
    with native bfloat16 adds up by row; a GPU's libraries choose the order by the number of rows, and are not asked.
    False, too, where weights of two and more dimensions are in other modules (experts, convolutions), and for layers in
    8 bits, which handle columns of the whole batch apart.
    """
    if next(model.parameters()).device.type != "cpu":
        return False
    layers, others = _by_shape(model)
    return not others and all(map(_goes_by_row, layers))


def _by_shape(model: torch.nn.Module) -> tuple[list[torch.nn.Linear], bool]:
    """One linear layer of each shape, and whether other modules but tables and norms hold weights."""
    layers: dict[tuple[object, ...], torch.nn.Linear] = {}
    others = False
    for module in model.modules():
        matrices = [one for one in module.parameters(recurse=False) if one.ndim > 1]
        if isinstance(module, torch.nn.Linear) and not (is_packed(module) and not hasattr(module, "compute_dtype")):
            key = (type(module), module.in_features, module.out_features, module.weight.dtype, module.bias is None)
            layers.setdefault(key, module)
        elif matrices and not isinstance(module, torch.nn.Embedding):
            others = True
    return list(layers.values()), others


def _goes_by_row(layer: torch.nn.Linear) -> bool:
    # Packed weights are no number format: their layer turns what comes into the one that it computes in.
    taken = layer.weight.dtype if layer.weight.is_floating_point() else torch.float32
    inputs = torch.randn(_ALL_ROWS, layer.in_features, generator=torch.Generator().manual_seed(0)).to(taken)
    every = layer(inputs)
    return all(
        torch.equal(layer(inputs[start : start + rows]), every[start : start + rows])
        for rows in _TRIED_ROWS
        for start in range(0, _ALL_ROWS - rows + 1, rows)
    )


class EndedRows:
    """Leaves rows that ended out of a model's forward passes while `generate` goes on with all of them."""

    def __init__(self, stops: torch.Tensor, fewest: int) -> None:
        """`stops` are the tokens that end a row; `fewest` rows stay, as `fewest_rows` says."""
        self._stops, self._fewest = stops, fewest
        self._ended = self._kept = torch.empty(0)
        """(N,) which rows ended; numbers of those that the cache still holds."""

    @contextmanager
    def left_out(self, model: Any) -> Iterator[None]:
        """Within the block the model computes no row that ended; `generate` gets zeros for its logits.

        `model` is one of transformers, with or without a PEFT adapter.
        """
        base = getattr(model, "get_base_model", lambda: model)()
        hooks = [base.register_forward_pre_hook(self._select, with_kwargs=True), base.register_forward_hook(self._fill)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _select(self, _model: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        tokens = named["input_ids"][:, -1]
        rows = len(tokens)
        if not len(self._kept):  # these are the prompts
            self._ended, self._kept = (
                torch.zeros_like(tokens, dtype=torch.bool),
                torch.arange(rows, device=tokens.device),
            )
            return None
        self._ended |= torch.isin(tokens, self._stops)
        going_on = ~self._ended[self._kept]
        most = len(self._kept) * (1 - _WORTH)
        if 0 < going_on.sum() < self._fewest:  # one that ended keeps it company
            going_on[(~going_on).nonzero()[: self._fewest - 1, 0]] = True
        if 0 < going_on.sum() <= most and _is_by_row(named, rows):
            named["past_key_values"].batch_select_indices(going_on.nonzero()[:, 0])
            self._kept = self._kept[going_on]
        if len(self._kept) == rows:
            return None
        return args, {name: value[self._kept] if _has_rows(value, rows) else value for name, value in named.items()}

    def _fill(self, _model: Any, _args: Any, output: Any) -> Any:
        logits = output.logits
        if len(logits) < len(self._ended):
            output.logits = logits.new_zeros(len(self._ended), *logits.shape[1:]).index_copy_(0, self._kept, logits)
        return output


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows


def _is_by_row(named: dict[str, Any], rows: int) -> bool:
    """Whether every input begins with the rows, or is one for all of them."""
    tensors = [value for value in named.values() if isinstance(value, torch.Tensor) and value.ndim > 1]
    return all(len(value) in (1, rows) for value in tensors)
