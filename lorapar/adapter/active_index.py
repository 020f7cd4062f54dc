"""Where a mask's active elements are in one LoRA tensor, at two bytes an element.

A plain index costs 8 bytes (int64) or 4 (int32) per active element, as much as one or half of Adam's two moments, for
as long as training lasts. Here a tensor is cut into blocks of 32,768 elements and each active element keeps its 16-bit
offset within its block; the full index exists for one tensor at a time, while it is used.
"""

from __future__ import annotations

import torch

# int16 holds each offset as it is: the first block, which is all of most tensors, needs no addition.
BLOCK_ELEMENTS = 1 << 15


class ActiveIndex:
    """The active elements of one tensor, in ascending flat order.

    Attributes:
        offsets: int16 [number of active elements], each within its block.
        counts: active elements of each block.
        shape: of the whole tensor.
    """

    def __init__(self, active: torch.Tensor) -> None:
        """From a bool tensor of the whole tensor's shape."""
        flat = torch.nonzero(active.reshape(-1)).squeeze(1)
        blocks = (active.numel() + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS
        self.counts = torch.bincount(flat // BLOCK_ELEMENTS, minlength=blocks).tolist()
        self.offsets = (flat % BLOCK_ELEMENTS).to(torch.int16)
        self.shape = tuple(active.shape)

    def __len__(self) -> int:
        """Number of active elements."""
        return self.offsets.numel()

    @property
    def nbytes(self) -> int:
        """Bytes held as long as this object lives."""
        return self.offsets.nbytes

    def flat(self, device: torch.device) -> torch.Tensor:
        """The flat int64 index [number of active elements], made again; moves what is held to the device."""
        return self.write(torch.empty(len(self), dtype=torch.int64, device=device))

    def write(self, index: torch.Tensor) -> torch.Tensor:
        """Write the flat index into a tensor of that length, int64 or int32, and return it."""
        if self.offsets.device != index.device:
            self.offsets = self.offsets.to(index.device)
        index.copy_(self.offsets)
        start = 0
        for block, count in enumerate(self.counts):
            if block:
                index[start : start + count] += block * BLOCK_ELEMENTS
            start += count
        return index
