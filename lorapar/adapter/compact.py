"""A LoRA packed into a smaller rank: the best approximation of each module's product, and how far it is from it.

A published adapter that was held unchanged at its start has twice the rank that was trained, `[B, -B0][A; A0]`, and
serving pays for all of it. The product B A is cut to its largest singular values without ever being formed: QR of both
factors, then the SVD of the small core between them. By Eckart and Young no other product of that rank is nearer in
the Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorapar.adapter.earlier import EarlierAdapter, Factors
from lorapar.errors import BadInputError


@dataclass(frozen=True)
class PackedModule:
    """One module's LoRA in the smaller rank."""

    a: torch.Tensor
    """[rank, in], float32."""
    b: torch.Tensor
    """[out, rank], float32."""
    singular_values: torch.Tensor
    """Of the unpacked product with its scale, float64, the largest first."""
    relative_error: float
    """Frobenius norm of what was cut off, over that of the whole; 0 where the whole is 0."""


def pack_module(factors: Factors, rank: int, scale: float) -> PackedModule:
    """The nearest product of `rank`, for a LoRA that multiplies it by `scale`; computed in float64.

    Where the module allows fewer singular values than `rank`, the rest are zeros. Signs are fixed, so that equal
    factors give equal tensors.
    """
    a, b = factors.a.double(), factors.b.double()
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    kept = min(rank, len(values))
    up, down = q_b @ left[:, :kept], (q_a @ right.T[:, :kept]).T
    signs = torch.gather(up, 0, up.abs().argmax(dim=0, keepdim=True)).sign()[0]
    # Both halves carry the same share of each value, as a trained pair does; the scale that PEFT applies is taken out.
    share = (values[:kept] * (factors.scale / scale)).sqrt()
    new_a, new_b = torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
    new_a[:kept] = ((signs * share)[:, None] * down).float()
    new_b[:, :kept] = (up * (signs * share)).float()
    scaled = values * factors.scale
    return PackedModule(new_a, new_b, scaled, relative_tail(scaled, rank))


def pack(adapter: EarlierAdapter, rank: int) -> dict[str, PackedModule]:
    """Every module of an adapter in `rank`, by its path; all are multiplied by `adapter.scale`.

    Raises BadInputError for a rank that is not smaller than the adapter's.
    """
    if not 1 <= rank < adapter.rank:
        raise BadInputError(
            f"{adapter.name}: its LoRA rank is {adapter.rank}, so it cannot be packed to {rank}; give a rank from 1 to "
            f"{adapter.rank - 1}"
            if adapter.rank > 1
            else f"{adapter.name}: its LoRA rank is 1 already; there is nothing to pack"
        )
    return {path: pack_module(factors, rank, adapter.scale) for path, factors in adapter.factors.items()}


def relative_tail(singular_values: torch.Tensor, rank: int) -> float:
    """What a cut to `rank` loses of a product: the norm of the values behind it over that of all."""
    whole = float(singular_values.norm())
    return float(singular_values[rank:].norm()) / whole if whole else 0.0


def sufficient_rank(packed: Mapping[str, PackedModule], relative_error: float) -> int:
    """The smallest rank at which no module loses more than `relative_error`."""
    longest = max(len(one.singular_values) for one in packed.values())
    return next(
        (
            rank
            for rank in range(1, longest)
            if all(relative_tail(one.singular_values, rank) <= relative_error for one in packed.values())
        ),
        longest,
    )
