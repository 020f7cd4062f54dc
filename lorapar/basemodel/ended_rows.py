"""Rows that have ended need no forward pass while `generate` goes on with the others of their batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WORTH = 1 / 8
"""Share of the rows that must have ended for the others to be copied out of the cache."""


class EndedRows:
    """Leaves rows that ended out of a model's forward passes while `generate` goes on with all of them."""

    def __init__(self, stops: torch.Tensor) -> None:
        """`stops` are the tokens that end a row."""
        self._stops = stops
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
        if 0 < going_on.sum() <= len(self._kept) * (1 - _WORTH) and _is_by_row(named, rows):
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
