"""Keep PyTorch from copying the output matrix once for every row of a batch.

Generation and GRPO ask for the logits of the last positions only, so transformers hands the output head a slice that
is not contiguous. For such an input and a weight that needs no gradient (any base model under an adapter), PyTorch's
matmul repeats the weight for each row, on the CPU in bfloat16 as a real copy: 1.8 GB for 32 rows of SmolLM2-135M, which
doubled the time of reading the prompts (6.6 to 3.1 s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def make_head_input_contiguous(model: PreTrainedModel) -> None:
    """Give the output head contiguous inputs from now on; the same numbers, and no cost where they are already."""
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)


def _contiguous(_head: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = inputs
    return (hidden.contiguous(), *others)
