"""The masked AdamW step as one compiled loop over LoRA tensors on the CPU, by Numba (the extra `fast`).

PyTorch's operations gather, step and scatter in three passes and pay for each position; one loop that stays in the
cache does it in a third of the time (docs/speed.md). Every operation rounds as in PyTorch's fused kernel, so an element
gets the same bits either way, and a run may change from one to the other between two steps.

Importing and compiling take about two seconds, so that short trainings are better without: see `MaskedKernel.pays`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lorapar.adapter.active_index import BLOCK_ELEMENTS, ActiveIndex

# A step costs 6 ns an active element less than PyTorch's operations do: from here on two seconds are earned again.
_PAYS_AFTER_ELEMENTS = 300_000_000
# Elements that are gathered, stepped and scattered at a time. 128 took 1.05 times as long, 512 1.3 times.
_CHUNK = 64
_ELEMENT_BYTES, _OFFSET_BYTES = 4, 2

Piece = tuple[torch.Tensor, ActiveIndex, dict[str, torch.Tensor]]


class MaskedKernel:
    """Steps on float32 tensors on the CPU, compiled when the first step asks for it."""

    def __init__(self) -> None:
        self._elements = 0
        self._step: Callable[..., None] | None = None
        self._there = importlib.util.find_spec("numba") is not None

    def pays(self, active: int) -> bool:
        """Whether to step by the kernel now; counts the `active` elements of this step.

        True once as much time went into PyTorch's operations as compiling takes. Whenever a training ends, it took at
        most twice what would have been best.
        """
        self._elements += active
        if not self._there or self._elements < _PAYS_AFTER_ELEMENTS:
            return False
        if self._step is None:
            try:
                self._step = _compile()
            except ImportError:  # Numba refuses a NumPy that is newer than it knows
                self._there = False
            else:
                self._there = self._gives_the_same_bits()
        return self._there

    def _gives_the_same_bits(self) -> bool:
        """Whether two steps on 1,024 elements are those of torch's own fused AdamW here, to the bit.

        Which operations its kernel fuses is its compiler's choice: another processor or release may round otherwise.
        """
        generator = torch.Generator().manual_seed(0)
        dense = torch.nn.Parameter(torch.randn(1024, generator=generator))
        own = dense.detach().clone()
        whole = ActiveIndex(torch.ones(1024, dtype=torch.bool))
        group: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        state = {"step": torch.zeros(()), "exp_avg": torch.zeros(1024), "exp_avg_sq": torch.zeros(1024)}
        optimizer = torch.optim.AdamW([dense], fused=True, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
        for _ in range(2):
            dense.grad = own.grad = torch.randn(1024, generator=generator)
            optimizer.step()
            state["step"] += 1
            self.step([(own, whole, state)], group)
        return torch.equal(own, dense.detach())

    def step(self, pieces: Sequence[Piece], group: Mapping[str, Any]) -> None:
        """One AdamW step: parameters, first and second moments of the pieces change in place.

        Args:
            pieces: parameters with a gradient (`takes`), their active elements, and `step` (already counted),
                `exp_avg` and `exp_avg_sq`.
            group: lr, betas, eps and weight_decay.
        """
        assert self._step is not None  # noqa: S101  -- pays() compiled it
        # Held until the loop has ended: it reads their memory by address.
        gradients = [parameter.grad.contiguous() for parameter, _, _ in pieces if parameter.grad is not None]
        addresses = np.array(
            [
                [
                    parameter.data_ptr(),
                    gradient.data_ptr(),
                    state["exp_avg"].data_ptr(),
                    state["exp_avg_sq"].data_ptr(),
                    index.offsets.data_ptr(),
                ]
                for (parameter, index, state), gradient in zip(pieces, gradients, strict=True)
            ],
            dtype=np.int64,
        )
        counts = np.array([count for _, index, _ in pieces for count in index.counts], dtype=np.int64)
        first = np.cumsum([0] + [len(index.counts) for _, index, _ in pieces])
        steps = torch.stack([state["step"] for _, _, state in pieces]).double().numpy()
        settings = [float(group["lr"]), *map(float, group["betas"]), float(group["eps"]), float(group["weight_decay"])]
        self._shared_out(addresses, counts, first, steps, np.array(settings))

    def _shared_out(
        self, addresses: np.ndarray, counts: np.ndarray, first: np.ndarray, steps: np.ndarray, settings: np.ndarray
    ) -> None:
        """The tensors on as many threads as torch uses; the loop lets go of Python's lock."""
        step = self._step
        assert step is not None  # noqa: S101
        threads = min(torch.get_num_threads(), len(steps))
        bounds = np.linspace(0, len(steps), threads + 1).astype(np.int64)
        calls = [(addresses, counts, first, steps, settings, begin, end) for begin, end in itertools.pairwise(bounds)]
        if threads == 1:
            step(*calls[0])
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda call: step(*call), calls))


def takes(parameter: torch.Tensor) -> bool:
    """Whether the kernel can step on this tensor."""
    gradient = parameter.grad
    return (
        parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and parameter.is_contiguous()
        and gradient is not None
        and gradient.dtype == torch.float32
    )


@functools.cache
def _compile() -> Callable[..., None]:
    """The loop over tensors `begin` to `end`; compiled in each process, because Numba reads its cache by pickle.

    Formulas and their order: PyTorch 2.13, aten/src/ATen/native/cpu/FusedAdamKernel.cpp, with the multiplications and
    additions that its compiler fuses.
    """
    from numba import float32, int64, njit, types

    floats, offsets_at, fused = _pointer_to(types.float32), _pointer_to(types.int16), _fused_multiply_add()

    @njit(inline="always")
    def moments(gradient, mean, square, toward, near, keep, add):  # type: ignore[no-untyped-def]
        mean = fused(toward, gradient - mean, mean) if near else fused(toward - float32(1), gradient - mean, gradient)
        return mean, fused(add * gradient, gradient, square * keep)

    @njit(nogil=True, error_model="numpy")
    def step(addresses, counts, first, steps, settings, begin, end):  # type: ignore[no-untyped-def]
        lr, beta1, beta2, eps, weight_decay = settings
        toward, keep, add = float32(1 - beta1), float32(beta2), float32(1 - beta2)
        near = abs(toward) < float32(0.5)
        decay, least = float32(1 - lr * weight_decay), float32(eps)
        value, slope = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
        for tensor in range(begin, end):
            rate = float32(-(lr / (1 - beta1 ** steps[tensor])))
            root = float32(math.sqrt(1 - beta2 ** steps[tensor]))
            done = int64(0)
            for block in range(first[tensor], first[tensor + 1]):
                start = _ELEMENT_BYTES * BLOCK_ELEMENTS * (block - first[tensor])
                parameter, gradient = floats(addresses[tensor, 0] + start), floats(addresses[tensor, 1] + start)
                for begun in range(0, counts[block], _CHUNK):
                    size = min(_CHUNK, counts[block] - begun)
                    mean = floats(addresses[tensor, 2] + _ELEMENT_BYTES * done)
                    square = floats(addresses[tensor, 3] + _ELEMENT_BYTES * done)
                    offset = offsets_at(addresses[tensor, 4] + _OFFSET_BYTES * done)
                    for i in range(size):
                        value[i], slope[i] = parameter[int64(offset[i])], gradient[int64(offset[i])]
                    for i in range(size):
                        mean[i], square[i] = moments(slope[i], mean[i], square[i], toward, near, keep, add)
                        value[i] = value[i] * decay + rate * mean[i] / (float32(math.sqrt(square[i])) / root + least)
                    for i in range(size):
                        parameter[int64(offset[i])] = value[i]
                    done += size

    compiled: Callable[..., None] = step
    return compiled


def _pointer_to(kind: Any) -> Any:
    """Reads an address as a pointer to floats or offsets."""
    from numba import types
    from numba.extending import intrinsic

    def pointer(_typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), generate

    return intrinsic(pointer)


def _fused_multiply_add() -> Any:
    """Gives `a * b + c`, rounded once."""
    from numba import float32
    from numba.extending import intrinsic

    def fused(_typing: Any, _a: Any, _b: Any, _c: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.fma(*arguments)

        return float32(float32, float32, float32), generate

    return intrinsic(fused)
