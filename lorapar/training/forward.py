"""What training asks of a forward pass: positions counted from a row's first token, logits where there is a label.

- `number_positions`: rows are padded on the left. Without positions, models whose positions are absolute (GPT-2,
  GPTBigCode, XGLM) count from the first column: a padded prompt is then another prompt to them than the one that
  `generate`, which counts from the row's first token, completes.
- `score_labelled_only`: only positions with a label go through the output head. On a GPU TRL leaves the others out by
  itself; on a CPU, TRL 1.16 multiplies and sums for all of them. SmolLM2's head, 49,152 tokens wide, is a fifth of the
  model's arithmetic, and of a row of the demo's SFT nine positions in ten are the prompt's. With `split_by_length` the
  short rows of a batch are computed apart from its long ones: of the demo's SFT a third of all positions are padding.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Part:
    """Rows of a batch, as a forward pass is given them."""

    wanted: torch.Tensor
    """The token that each position predicts (N, L)."""
    settings: dict[str, Any]
    rows: torch.Tensor | None = None
    """Their numbers in the batch (N,); None: all."""


_WORTH_A_PASS = 0.875
"""Two passes over parts of a batch are made where they have at most this share of its positions."""


def score_labelled_only(model: Any, *, split_by_length: bool = False) -> None:
    """Let the forward pass that TRL gave a base model (`trl.trainer.utils.add_fused_lm_head`) skip what has no label.

    Its results are the same, and so are their shapes; without `fused_lm_head` nothing changes.

    `split_by_length`: two passes over a batch padded on the right, the short rows and the long ones, where that saves
    an eighth of its positions. Not where the model is given anything but tokens (or their embeddings), mask and
    positions, or balances the experts over a batch.
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
        whole = _Part(wanted, settings)
        parts = _by_length(whole) if split_by_length and not args and not _balances(model) else [whole]
        found = []
        for part in parts:
            mask = part.wanted != IGNORED  # (N, L)
            with _picked(model.base_model, mask):
                scored = fused(*args, fused_lm_head=True, shift_labels=part.wanted[mask][None], **part.settings)
            found.append(_spread(scored, mask if labels is None else mask[:, :-1]))
        width = whole.wanted.shape[1] - (labels is not None)
        return found[0] if len(found) == 1 else _joined(found, parts, width)

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


def _balances(model: Any) -> bool:
    """Whether the loss holds how evenly a forward pass used the experts: a part's evenness is not the batch's."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


def _by_length(whole: _Part) -> list[_Part]:
    """The short and the long rows of a batch where that pays, else the batch as it is.

    Of all ways to draw the line the one is taken that leaves the fewest positions.
    """
    given = {name: value for name, value in whole.settings.items() if isinstance(value, torch.Tensor)}
    rest = [value for name, value in whole.settings.items() if name not in given]
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in rest)
    mask = given.get("attention_mask")
    if not plain or mask is None or any(value.shape[:2] != whole.wanted.shape for value in given.values()):
        return [whole]
    count = len(mask)
    reach = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).cpu()  # (N,) to the last token
    lengths, order = reach.sort(stable=True)
    short = torch.arange(1, count)
    positions = short * lengths[:-1] + (count - short) * lengths[-1]
    if count < 2 or positions.min() > _WORTH_A_PASS * whole.wanted.numel():
        return [whole]
    border = int(short[positions.argmin()])
    parts = []
    for rows in (order[:border], order[border:]):
        length = int(reach[rows].max())
        kept = {name: value[rows.to(value.device), :length] for name, value in given.items()}
        parts.append(_Part(whole.wanted[rows.to(mask.device), :length], {**whole.settings, **kept}, rows))
    return parts


def _joined(found: Sequence[FusedCausalLMOutput], parts: Sequence[_Part], width: int) -> FusedCausalLMOutput:
    """What parts of a batch came to, as of the whole batch in the order of its rows: (rows, width) each."""
    back = torch.cat([part.rows for part in parts if part.rows is not None]).argsort()
    both = FusedCausalLMOutput()
    for name in (*_PER_POSITION, "label_mask"):
        values = [one.get(name) for one in found]
        if all(value is not None for value in values):
            wide = torch.cat([pad(value, (0, width - value.shape[1])) for value in values])
            both[name] = wide[back.to(wide.device)]
    both.loss = -both.log_probs.sum() / both.label_mask.sum().clamp(min=1)
    return both


def _spread(found: FusedCausalLMOutput, mask: torch.Tensor) -> FusedCausalLMOutput:
    """The values of the picked positions (1, n) in their places (N, L), and zeros elsewhere."""
    for name in _PER_POSITION:
        values = found.get(name)
        if values is not None:
            places = mask.to(values.device)
            found[name] = values.new_zeros(places.shape).masked_scatter(places, values)
    found.label_mask = mask
    return found
