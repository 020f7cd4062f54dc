"""AdamW on the active elements of LoRA tensors, and on nothing else.

Source: LoRA-PAR, section 3.3 (each stage trains only its system's elements). Masking gradients is not enough: AdamW's
decoupled weight decay would still shrink every frozen element, and Adam would keep moments for all. Here the active
elements of several tensors are gathered into one scratch, stock fused AdamW steps on it, and they are scattered back.
Inactive elements are never read or written, and moments exist for active elements only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, overload

import torch
from torch.optim.adamw import adamw

from lorapar.adapter.active_index import ActiveIndex
from lorapar.adapter.masked_kernel import MaskedKernel, takes
from lorapar.errors import BadInputError, TrainingError

# PyTorch's fused CPU kernel rounds differently in the scalar tail after its last whole vector. Pieces padded to whole
# vectors always take the vector path, as whole LoRA tensors do, so both give the same bits.
_VECTOR = 16
# Half of a core's cache or less: the values of a bucket are read again by the kernel and by the scattering after it.
_SCRATCH_ELEMENTS = 1 << 18
_MOMENTS = ("exp_avg", "exp_avg_sq")

Piece = tuple[torch.Tensor, ActiveIndex]


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW whose `param_groups` name the model's parameters but which steps on their active elements only.

    Made by `masked_training`, whose hooks zero the gradients of inactive elements as they accumulate; so schedulers,
    accelerate's wrapper and gradient clipping work as with any optimiser. Given the same masked and clipped gradients,
    active elements equal `torch.optim.AdamW(fused=True)` bit for bit on the CPU (for tensors of a multiple of 16
    elements: the dense kernel rounds the rest of others differently).
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        indices: Mapping[str, ActiveIndex],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        """Optimise the named parameters' indexed elements; tensors without an active element are left out.

        Args:
            parameters: LoRA tensors by PEFT state-dict name.
            indices: by the same names, which elements are active.
            lr: learning rate.
            betas: decay rates of the two moments.
            eps: added to the denominator.
            weight_decay: decoupled weight decay, on active elements only.
            is_open: False once the gradient hooks are gone; stepping is then refused.
        """
        named = [(name, p) for name, p in parameters.items() if len(indices[name])]
        self._indices: dict[torch.Tensor, ActiveIndex] = {p: indices[name] for name, p in named}
        self._names: dict[torch.Tensor, str] = {p: name for name, p in named}
        self._dtypes: dict[torch.Tensor, torch.dtype] = {p: p.dtype for _, p in named}
        self._is_open = is_open
        self._scratch: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._kernel = MaskedKernel()
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(named, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One AdamW step on the active elements; tensors without a gradient are skipped, as in torch's AdamW.

        Raises:
            TrainingError: the `masked_training` block has ended, or a parameter's dtype was changed since it began.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._is_open():
            raise TrainingError(
                "the masked_training block has ended, so gradients are no longer masked: step inside the block"
            )
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if self._by_kernel(parameters):
                self._step_compiled(parameters, group)
                continue
            for bucket in self._buckets(parameters):
                self._step_bucket(bucket, group)
        return loss

    def _by_kernel(self, parameters: list[torch.Tensor]) -> bool:
        return (
            bool(parameters)
            and all(map(takes, parameters))
            and self._kernel.pays(sum(len(self._indices[one]) for one in parameters))
        )

    def _step_compiled(self, parameters: list[torch.Tensor], group: Mapping[str, Any]) -> None:
        states = self._states(parameters)
        for parameter in parameters:
            self._check_dtype(parameter)
        torch._foreach_add_([state["step"] for state in states], 1)
        indices = [self._indices[parameter] for parameter in parameters]
        self._kernel.step(list(zip(parameters, indices, states, strict=True)), group)

    def moment_bytes(self) -> int:
        """Bytes of Adam's two moments, as held."""
        return sum(state[key].nbytes for state in self.state.values() for key in _MOMENTS)

    def state_dict(self) -> dict[str, Any]:
        """Step and moments by tensor name, moments [active elements] in ascending flat order; groups by name too."""
        state = {
            self._names[p]: {"step": held["step"], **{key: held[key][: len(self._indices[p])] for key in _MOMENTS}}
            for p, held in self.state.items()
        }
        groups = [
            {
                **{k: v for k, v in group.items() if k != "param_names"},
                "params": [self._names[p] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            BadInputError: the state is for other tensors or another number of active elements.
        """
        by_name = {name: p for p, name in self._names.items()}
        groups = state_dict["param_groups"]
        if [list(g["params"]) for g in groups] != [[self._names[p] for p in g["params"]] for g in self.param_groups]:
            raise BadInputError("this optimiser state is for other tensors: resume with the mask it was saved under")
        for name, saved in state_dict["state"].items():
            if saved["exp_avg"].numel() != len(self._indices[by_name[name]]):
                raise BadInputError(
                    f"this optimiser state has {saved['exp_avg'].numel()} active elements in '{name}' and the mask has "
                    f"{len(self._indices[by_name[name]])}: resume with the mask it was saved under"
                )
        for group, saved_group in zip(self.param_groups, groups, strict=True):
            group.update({key: value for key, value in saved_group.items() if key != "params"})
        restored = {by_name[name]: self._restored(by_name[name], saved) for name, saved in state_dict["state"].items()}
        self.state.clear()
        self.state.update(restored)

    def _restored(self, parameter: torch.Tensor, saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = self._fresh_state(parameter)
        state["step"].copy_(saved["step"])
        for key in _MOMENTS:
            state[key][: saved[key].numel()].copy_(saved[key])
        return state

    def _fresh_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        size = _padded(len(self._indices[parameter]))
        # As in torch's fused AdamW, the step count is on the parameter's device, where the kernel reads it.
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, **{key: parameter.new_zeros(size) for key in _MOMENTS}}

    def _states(self, parameters: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = self._fresh_state(parameter)
        return [self.state[parameter] for parameter in parameters]

    def _buckets(self, parameters: list[torch.Tensor]) -> Iterator[list[Piece]]:
        """The parameters in runs that share one scratch."""
        bucket: list[Piece] = []
        held = 0
        for parameter in parameters:
            self._check_dtype(parameter)
            size = _padded(len(self._indices[parameter]))
            if bucket and (held + size > _SCRATCH_ELEMENTS or not _alike(parameter, bucket[0][0])):
                yield bucket
                bucket, held = [], 0
            bucket.append((parameter, self._indices[parameter]))
            held += size
        if bucket:
            yield bucket

    def _step_bucket(self, bucket: list[Piece], group: Mapping[str, Any]) -> None:
        sizes = [_padded(len(index)) for _, index in bucket]
        scratch = self._scratch_of(bucket[0][0], sum(sizes))
        values, gradients, positions = (list(torch.split(one[: sum(sizes)], sizes)) for one in scratch)
        for (parameter, index), position, value, gradient in zip(bucket, positions, values, gradients, strict=True):
            count = len(index)
            index.write(position[:count])
            torch.index_select(_flat(parameter), 0, position[:count], out=value[:count])
            torch.index_select(_flat(parameter.grad), 0, position[:count], out=gradient[:count])
        self._adamw([parameter for parameter, _ in bucket], values, gradients, group)
        for (parameter, index), position, value in zip(bucket, positions, values, strict=True):
            count = len(index)
            # int32 halves what gathering reads; scattering wants int64.
            parameter.view(-1).scatter_(0, position[:count].long(), value[:count])

    def _scratch_of(self, parameter: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values, gradients and positions [at least `size`] on the parameter's device, kept from bucket to bucket.

        What pads a piece to whole vectors is left from the bucket before: it goes nowhere but into the padding of the
        moments, which nobody reads.
        """
        key = (parameter.device, parameter.dtype)
        held = self._scratch.get(key)
        if held is None or held[0].numel() < size:
            values, gradients = parameter.new_zeros(size), parameter.new_zeros(size)
            held = (values, gradients, torch.zeros(size, dtype=torch.int32, device=parameter.device))
            self._scratch[key] = held
        return held

    def _adamw(
        self,
        parameters: list[torch.Tensor],
        values: list[torch.Tensor],
        gradients: list[torch.Tensor],
        group: Mapping[str, Any],
    ) -> None:
        states = self._states(parameters)
        beta1, beta2 = group["betas"]
        adamw(
            values,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _check_dtype(self, parameter: torch.Tensor) -> None:
        if parameter.dtype != self._dtypes[parameter]:
            raise TrainingError(
                f"'{self._names[parameter]}' was {self._dtypes[parameter]} when masked training began and is "
                f"{parameter.dtype} now, so its frozen elements were rounded (TRL casts the adapter of a quantised "
                "base): call undo_casts() on the masked_training object after the trainer is made"
            )


def _padded(size: int) -> int:
    return -(-size // _VECTOR) * _VECTOR


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype


def _flat(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None  # noqa: S101  -- step() leaves out tensors without a gradient
    return tensor.reshape(-1)
