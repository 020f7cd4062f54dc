"""The log-probabilities of a group's completions, with the prompt that they share read once.

A row of the forward pass is a tree: the prompt without its last token, and after it one branch a completion, which
begins with the prompt's last token. Attention and positions are such that a branch sees the prompt and itself, as if
it stood in a row of its own. The gradients reach the prompt through all branches at once.

    tokens      p0 p1 p2 | p3 a0 a1 | p3 b0 b1 b2
    positions    0  1  2 |  3  4  5 |  3  4  5  6
    scored                 a0 a1 a2   b0 b1 b2 b3

What a branch adds is its own length instead of the prompt's and its own, and padding between prompts and completions
is not computed at all. Long branches in one row look past one another at a price, so a row holds no more than pays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from lorapar.basemodel.by_row import is_exact
from lorapar.training.forward import IGNORED
from lorapar.training.in_float32 import in_float32

_MASKS = {"sdpa": "seen", "eager": "added"}
"""Implementations of attention that take any mask, and what it says: what is seen, or what is added to the scores."""
_WINDOWS = ("sliding_window", "attention_chunk_size")
_ANY = 2**62
_EXACT = 1e-3
"""The largest difference of log-probabilities that is rounding in float32. None tells in 16 bits: MPT, which does not
fit, differs by 0.02 on average, and models that do by as much.
"""
_ROUNDED = 0.25
"""The mean difference beyond which a model does not fit in 16 bits either."""


@dataclass(frozen=True)
class Tree:
    """A prompt and the completions that share it; one row of a forward pass."""

    prompt: torch.Tensor
    """Token numbers (P,)."""
    branches: list[tuple[int, torch.Tensor]]
    """The number of a completion among all rows, and its token numbers (C,)."""

    def __len__(self) -> int:
        return len(self.prompt) - 1 + sum(len(tokens) for _, tokens in self.branches)


def plant(prompts: Sequence[torch.Tensor], completions: Sequence[torch.Tensor], width: int) -> list[Tree]:
    """Trees of rows whose prompts are equal, in the order of their first rows.

    Args:
        prompts: token numbers of each row's prompt, without padding, one token at least.
        completions: those of each row's completion, as many rows.
        width: of the model's hidden states; decides with the lengths how many completions of one tree pay.
    """
    open_trees: dict[tuple[int, ...], Tree] = {}
    trees = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        key = tuple(prompt.tolist())
        tree = open_trees.get(key)
        if tree is None or not _pays(tree, len(completion), width):
            tree = open_trees[key] = Tree(prompt, [])
            trees.append(tree)
        tree.branches.append((row, completion))
    return trees


def _pays(tree: Tree, tokens: int, width: int) -> bool:
    """Whether a branch more costs less than a row of its own.

    A token takes about 24 width² operations a layer in the matrices and 4 width for each token it could look at.
    """
    before, prompt = len(tree), len(tree.prompt)
    matrices = 24 * width * width * (prompt - 1)
    attention = 4 * width * ((before + tokens) ** 2 - before**2 - (prompt + tokens) ** 2)
    return attention < matrices


@dataclass(frozen=True)
class TreeBatch:
    """Trees as inputs of a causal model: R rows of L tokens, padded on the right."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    """(R, L): the token that each position predicts, `IGNORED` where that is not asked."""
    rows: torch.Tensor
    """(R, L): the completion that a position belongs to; -1 in prompts, -2 in padding."""

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> TreeBatch:
        """The inputs of some trees, on the device of their tokens."""
        parts = [_row(tree) for tree in trees]
        padding = (0, 0, IGNORED, -2)
        return cls(*(
            pad_sequence([part[n] for part in parts], batch_first=True, padding_value=padding[n]) for n in range(4)
        ))  # fmt: skip

    def visible(self) -> torch.Tensor:
        """(R, 1, L, L): whether a position looks at another one: a branch at the prompt and at itself, never ahead."""
        length = self.rows.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.rows.device).tril()
        theirs = self.rows[:, None, :]
        same = (theirs == self.rows[:, :, None]) | (theirs == -1)
        return (earlier & same)[:, None]

    def place(self, values: torch.Tensor, rows: int, length: int) -> torch.Tensor:
        """Figures of the labelled positions (R, L) as a row each: (rows, length), zeros behind a completion's end."""
        asked = self.labels != IGNORED
        owner, position = self.rows[asked], self.position_ids[asked]
        first = torch.full((rows,), 2**31, device=owner.device, dtype=position.dtype)
        first.scatter_reduce_(0, owner, position, "amin")
        flat = values.new_zeros(rows * length)
        flat = flat.index_put((owner * length + position - first[owner],), values[asked])
        return flat.view(rows, length)


def _row(tree: Tree) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions, labels and rows of a tree (L,)."""
    trunk, last = tree.prompt[:-1], tree.prompt[-1:]
    start = len(trunk)
    positions = torch.arange(start + max(len(tokens) for _, tokens in tree.branches), device=trunk.device)
    inputs, places = [trunk], [positions[:start]]
    labels, rows = [torch.full_like(trunk, IGNORED)], [torch.full_like(trunk, -1)]
    for number, tokens in tree.branches:
        inputs += [last, tokens[:-1]] if len(tokens) else []
        places.append(positions[start : start + len(tokens)])
        labels.append(tokens)
        rows.append(torch.full_like(tokens, number))
    return torch.cat(inputs), torch.cat(places), torch.cat(labels), torch.cat(rows)


class PromptTrees:
    """Scores completions tree by tree."""

    def __init__(self, model: Any) -> None:
        """Of a causal model whose forward pass TRL has given a fused head; `fits` says whether trees suit it."""
        config = model.config.get_text_config()
        self._base = model
        self._width: int = config.hidden_size
        self._vocabulary: int = config.vocab_size
        self._mask_kind = _MASKS.get(model.config._attn_implementation)
        self._reach = min((getattr(config, name, None) or _ANY for name in _WINDOWS), default=_ANY)
        self._drops_out = bool(getattr(config, "attention_dropout", 0.0)) or any(
            isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()
        )

    def fits(self, model: Any, plain: Callable[..., torch.Tensor]) -> bool:
        """Whether the model gives completions in a tree the log-probabilities that `plain` gives them in rows.

        It is tried on made-up tokens, because a model may do without a mask or positions that it is given: states of
        linear attention, convolutions and ALiBi know nothing of branches. What is left out at random would be the same
        for all branches, so a model with dropout does not fit. Random numbers are not used. In narrow formats rounding
        hides what a model does, so that it is tried in float32 as well.
        """
        if self._mask_kind is None or self._drops_out:
            return False
        trial = _trial(self._vocabulary, next(model.parameters()).device)
        difference = self._difference(model, plain, trial)
        if difference is None:
            return False
        if is_exact(model, autocast=torch.is_autocast_enabled(trial[0].device.type)):
            return bool(difference.max() < _EXACT)
        if difference.mean() >= _ROUNDED:
            return False
        if any(hasattr(one, "full_tensor") for one in model.parameters()):  # of several processes each has a part
            return True
        with in_float32(self._base):
            difference = self._difference(self._base, partial(_in_rows, self._base), trial)
        return difference is not None and bool(difference.max() < _EXACT)

    def _difference(
        self, model: Any, plain: Callable[..., torch.Tensor], trial: tuple[torch.Tensor, torch.Tensor, int]
    ) -> torch.Tensor | None:
        """How far the log-probabilities in trees are from those in rows; None where the model cannot give them."""
        try:
            expected = plain(*trial)
            found = self.score(model, *trial)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return None
        return None if found is None else (found[0] - expected).abs()

    def score(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Log-probabilities and entropies (N, length) of the completions, which are the last `length` tokens of a row.

        Args:
            model: the model or a wrapper of it.
            input_ids: (N, L), prompts padded on the left, completions on the right.
            attention_mask: (N, L), 0 in padding.
            length: tokens of the longest completion.

        Returns:
            None where no prompt is shared, or some layer looks back less far than a row is long: a mask given to the
            model would undo that.
        """
        if input_ids.shape[1] > self._reach:
            return None
        kept = attention_mask.bool()
        cut = input_ids.shape[1] - length
        prompts = [ids[:cut][mask[:cut]] for ids, mask in zip(input_ids, kept, strict=True)]
        completions = [ids[cut:][mask[cut:]] for ids, mask in zip(input_ids, kept, strict=True)]
        trees = plant(prompts, completions, self._width)
        if len(trees) == len(input_ids):
            return None
        batch = TreeBatch.of(trees)
        output = model(
            input_ids=batch.input_ids, attention_mask=self._mask(batch, model), position_ids=batch.position_ids,
            shift_labels=batch.labels, fused_lm_head=True,
        )  # fmt: skip
        places = len(input_ids), length
        return batch.place(output.log_probs, *places), batch.place(output.entropy, *places)

    def _mask(self, batch: TreeBatch, model: Any) -> torch.Tensor:
        visible = batch.visible()
        if self._mask_kind == "seen":
            return visible
        dtype = next(model.parameters()).dtype
        hidden = torch.finfo(dtype).min
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, hidden)


def _trial(vocabulary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows to try a model with: two prompts of different lengths with three completions each; ids, mask, length."""
    prompts, length, rows = (9, 6), 5, 3
    longest = max(prompts)
    ids = torch.arange(len(prompts) * rows * (longest + length), device=device).view(-1, longest + length)
    ids = ids * 7 % (vocabulary - 4) + 3
    mask = torch.ones_like(ids)
    for group, tokens in enumerate(prompts):
        for row in range(group * rows, (group + 1) * rows):
            ids[row, :longest] = ids[group * rows, :longest]
            mask[row, : longest - tokens] = 0
            mask[row, longest + length - row % rows :] = 0
    return ids, mask, length


def _in_rows(base: Any, ids: torch.Tensor, mask: torch.Tensor, length: int) -> torch.Tensor:
    """The log-probabilities (N, length) that the base with its adapter gives completions in rows of their own."""
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :-length] = IGNORED
    found: torch.Tensor = base(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
    return found[:, -length:]


def groups_together(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many batches of the same sizes, rows of equal prompts next to each other.

    A batch is what TRL buffers: `prompt_ids` (n, P) and other tensors of as many rows; what has no rows stays.
    """
    sizes = [len(batch["prompt_ids"]) for batch in batches]
    prompts = torch.cat([batch["prompt_ids"] for batch in batches])
    order = torch.unique(prompts, dim=0, return_inverse=True)[1].argsort(stable=True)
    first = dict(batches[0])
    rows = {
        name: torch.split(torch.cat([batch[name] for batch in batches])[order], sizes)
        for name, value in first.items()
        if isinstance(value, torch.Tensor) and value.ndim
    }
    return [{name: rows[name][n] if name in rows else first[name] for name in first} for n in range(len(batches))]
