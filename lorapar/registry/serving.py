"""What a server must be told to serve an adapter."""

from __future__ import annotations

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for --max-lora-rank (vLLM 0.31 to 0.33)."""


def max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that serves an adapter of this rank; None where none is large enough."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)
