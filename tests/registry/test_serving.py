"""What a server must be told."""

from __future__ import annotations

import pytest

from lorapar.registry import max_lora_rank


@pytest.mark.parametrize(
    ("rank", "served"), [(1, 1), (2, 8), (8, 8), (16, 16), (17, 32), (200, 256), (300, 320), (512, 512), (513, None)]
)
def test_vllm_takes_the_next_rank_it_knows(rank: int, served: int | None) -> None:
    assert max_lora_rank(rank) == served
