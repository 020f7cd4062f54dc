"""What training asks of a forward pass: positions counted from a row's first token, logits where there is a label.

- `number_positions`: rows are padded on the left. Without positions, models whose positions are absolute (GPT-2,
  GPTBigCode, XGLM) count from the first column: a padded prompt is then another prompt to them than the one that
  `generate`, which counts from the row's first token, completes.
- `score_labelled_only`: only positions with a label go through the output head. On a GPU TRL leaves the others out by
  itself; on a CPU, TRL 1.16 multiplies and sums for all of them. SmolLM2's head, 49,152 tokens wide, is a fifth of the
  model's arithmetic, and of a row of the demo's SFT nine positions in ten are the prompt's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import pad
from trl.trainer.utils import FusedCausalLMOutput

from lorapar.adapter.kinds import positions_of


def number_positions(model: Any) -> None:
    """Let the scoring of tokens (`fused_lm_head`) count positions by the attention mask, as `generate` does.

    TRL 1.16 gives none to its forward passes over prompts padded on the left. Models whose forward pass takes no
    positions (BLOOM, MPT, linear attention) count by the mask themselves, or by distance.
    """
    forward: Callable[..., Any] = model.forward
    if "position_ids" not in inspect.signature(forward).parameters:
        return

    @functools.wraps(forward)
    def numbered(*args: Any, **settings: Any) -> Any:
        mask = settings.get("attention_mask")
        if settings.get("fused_lm_head") and mask is not None and mask.ndim == 2:
            embedded = settings.get("inputs_embeds")
            read = settings["input_ids"] if embedded is None else embedded  # a prefix is in the cache, not in here
            settings.setdefault("position_ids", positions_of(mask)[:, -read.shape[1] :])
        return forward(*args, **settings)

    model.forward = numbered


IGNORED = -100
"""The label of a position that is not learned from."""
_PER_POSITION = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def score_labelled_only(model: Any) -> None:
    """Let the forward pass that TRL gave a base model (`trl.trainer.utils.add_fused_lm_head`) skip what has no label.

    Its results are the same, and so are their shapes; without `fused_lm_head` nothing changes.
    """
    fused: Callable[..., Any] = model.forward

    @functools.wraps(fused)
    def forward(
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        **settings: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels}
            settings |= {name: value for name, value in given.items() if value is not None}
            return fused(*args, **settings)
        wanted = shift_labels if labels is None else pad(labels[:, 1:], (0, 1), value=IGNORED)
        if wanted is None:
            raise TypeError("scoring tokens needs labels or shift_labels")
        mask = wanted != IGNORED  # (N, L)
        with _picked(model.base_model, mask):
            found = fused(*args, fused_lm_head=True, shift_labels=wanted[mask][None], **settings)
        return _spread(found, mask if labels is None else mask[:, :-1])

    model.forward = forward


@contextmanager
def _picked(backbone: torch.nn.Module, mask: torch.Tensor) -> Iterator[None]:
    """Within the block the backbone gives the hidden states of the positions in the mask only: (1, n, width)."""

    def pick(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states[mask.to(states.device)][None]
        return output

    handle = backbone.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _spread(found: FusedCausalLMOutput, mask: torch.Tensor) -> FusedCausalLMOutput:
    """The values of the picked positions (1, n) in their places (N, L), and zeros elsewhere."""
    for name in _PER_POSITION:
        values = found.get(name)
        if values is not None:
            places = mask.to(values.device)
            found[name] = values.new_zeros(places.shape).masked_scatter(places, values)
    found.label_mask = mask
    return found
