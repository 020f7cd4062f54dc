"""What a server must be told to serve an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorapar.config.adapter import kind_of_peft

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for --max-lora-rank (vLLM 0.31 to 0.33)."""


def max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that serves an adapter of this rank; None where none is large enough."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)


def serving_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a lineage says of serving: the rank and vLLM's setting for it, or the kind where it is no plain LoRA."""
    kind, rank = kind_of_peft(config), config.get("r")
    if kind != "lora":
        return {"kind": kind, "rank": rank, "max_lora_rank": None}
    return {"rank": rank, "max_lora_rank": max_lora_rank(int(config["r"]))}
