"""Where a mask's active elements lie in one LoRA tensor, at two bytes an element.

A plain index costs 8 bytes (int64) or 4 (int32) per active element, as much as one or half of Adam's two moments, for
as long as training lasts. Here a tensor is cut into blocks of 65,536 elements and each active element keeps its 16-bit
offset within its block; the full index exists for one tensor at a time, while it is used.
"""

from __future__ import annotations

import torch

_BLOCK = 1 << 16
_LOWEST = -(1 << 15)  # int16 holds offset + _LOWEST


class ActiveIndex:
    """The active elements of one tensor, in ascending flat order."""

    def __init__(self, active: torch.Tensor) -> None:
        """From a bool tensor of the whole tensor's shape."""
        flat = torch.nonzero(active.reshape(-1)).squeeze(1)
        blocks = (active.numel() + _BLOCK - 1) // _BLOCK
        self._counts = torch.bincount(flat // _BLOCK, minlength=blocks).tolist()
        self._offsets = (flat % _BLOCK + _LOWEST).to(torch.int16)
        self.shape = tuple(active.shape)

    def __len__(self) -> int:
        """Number of active elements."""
        return self._offsets.numel()

    @property
    def nbytes(self) -> int:
        """Bytes held for as long as this object lives."""
        return self._offsets.nbytes

    def flat(self, device: torch.device) -> torch.Tensor:
        """The flat int64 index [number of active elements], made anew; moves what is held to the device."""
        if self._offsets.device != device:
            self._offsets = self._offsets.to(device)
        index = self._offsets.to(torch.int64)
        start = 0
        for block, count in enumerate(self._counts):
            index[start : start + count] += block * _BLOCK - _LOWEST
            start += count
        return index
