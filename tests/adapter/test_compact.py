"""A LoRA in a smaller rank: held against the dense SVD of numpy, and by property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.adapter.compact import pack, pack_module, sufficient_rank
from lorapar.adapter.earlier import EarlierAdapter, Factors
from lorapar.errors import BadInputError


def random_factors(seed: int, inputs: int, outputs: int, rank: int, scale: float = 2.0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=generator)
    return Factors(a, torch.randn(outputs, rank, generator=generator), scale)


def update(a: torch.Tensor, b: torch.Tensor, scale: float) -> np.ndarray:
    return scale * (b.double() @ a.double()).numpy()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    held=st.integers(2, 9),
    rank=st.integers(1, 9),
)
def test_no_product_of_the_rank_is_nearer(seed: int, inputs: int, outputs: int, held: int, rank: int) -> None:
    """numpy's SVD of the dense update says what the best one loses (Eckart and Young)."""
    factors = random_factors(seed, inputs, outputs, held)
    whole = update(factors.a, factors.b, factors.scale)
    packed = pack_module(factors, rank, scale=0.5)
    assert packed.a.shape == (rank, inputs)
    assert packed.b.shape == (outputs, rank)
    lost = np.linalg.norm(whole - update(packed.a, packed.b, 0.5)) / np.linalg.norm(whole)
    best = np.linalg.norm(np.linalg.svd(whole, compute_uv=False)[rank:]) / np.linalg.norm(whole)
    assert lost == pytest.approx(best, abs=1e-5)
    assert packed.relative_error == pytest.approx(best, abs=1e-7)


def test_what_has_the_rank_already_loses_only_the_rounding() -> None:
    """A start held unchanged, of which only B moved: [B + D, -B][A; A] is D A, whose rank is r."""
    a, b, moved = (torch.randn(4, 16), torch.randn(24, 4), torch.randn(24, 4))
    factors = Factors(torch.cat([a, a]), torch.cat([b + moved, -b], dim=1), 1.0)
    packed = pack_module(factors, 4, scale=1.0)
    assert packed.relative_error < 1e-6
    np.testing.assert_allclose(update(packed.a, packed.b, 1.0), update(a, moved, 1.0), atol=2e-5)
    assert sufficient_rank({"q": packed}, 0.01) == 4


def test_an_update_of_zero_stays_zero_and_loses_nothing() -> None:
    packed = pack_module(Factors(torch.ones(4, 6), torch.zeros(5, 4), 1.0), 2, scale=1.0)
    assert packed.relative_error == 0.0
    assert not update(packed.a, packed.b, 1.0).any()


def test_the_same_factors_give_the_same_bits() -> None:
    factors = random_factors(3, 10, 12, 8)
    first, second = pack_module(factors, 4, 1.0), pack_module(factors, 4, 1.0)
    assert torch.equal(first.a, second.a)
    assert torch.equal(first.b, second.b)


@pytest.mark.parametrize("rank", [0, 4, 9])
def test_a_rank_that_packs_nothing_is_refused(rank: int) -> None:
    adapter = EarlierAdapter("mine@3", {"q": random_factors(0, 8, 8, 4)})
    with pytest.raises(BadInputError, match=r"mine@3: its LoRA rank is 4, .* give a rank from 1 to 3"):
        pack(adapter, rank)
