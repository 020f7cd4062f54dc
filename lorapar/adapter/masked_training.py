"""Train one mask's elements: gradient hooks and optimiser together.

Inside the block the gradients of inactive elements are zeroed as they accumulate, before any clipping, so that the
clipping norm counts active elements only; the optimiser made there steps on active elements only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

from lorapar.adapter.active_index import ActiveIndex
from lorapar.adapter.names import DEFAULT_ADAPTER, adapter_parameters, trainable_slice
from lorapar.adapter.optimiser import MaskedAdamW
from lorapar.adapter.settings import assert_trainable, trainable_rank
from lorapar.errors import BadInputError, TrainingError


class MaskedTraining:
    """What `masked_training` gives: the active elements' count, and optimisers for them."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], indices: Mapping[str, ActiveIndex]) -> None:
        """Made by `masked_training`."""
        self._parameters = dict(parameters)
        self._indices = dict(indices)
        # Holding the storages costs nothing until somebody rebinds a parameter's data to a cast copy.
        self._originals = {name: p.data for name, p in parameters.items()}
        self._open = False

    @property
    def active_elements(self) -> int:
        """Number of elements this run trains."""
        return sum(len(index) for index in self._indices.values())

    @property
    def index_bytes(self) -> int:
        """Bytes that the record of active elements takes as long as training lasts."""
        return sum(index.nbytes for index in self._indices.values())

    def optimizer(
        self,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> MaskedAdamW:
        """AdamW over the active elements, for a trainer's `optimizers=(optimizer, None)`; valid inside the block."""
        return MaskedAdamW(
            self._parameters,
            self._indices,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            is_open=lambda: self._open,
        )

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The active elements' values, each tensor's [its active elements] in ascending flat order, on its device.

        All that training changes of the adapter is in them. `tensors` have the names and shapes of the adapter's.
        """
        return {
            name: tensors[name].detach().reshape(-1)[index.flat(tensors[name].device)]
            for name, index in self._indices.items()
            if len(index)
        }

    @torch.no_grad()
    def scatter(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        """Put what `gather` gave back into tensors of the adapter's names and shapes; None: into the adapter itself.

        Raises:
            BadInputError: the values are of another mask.
        """
        targets = {name: p.data for name, p in self._parameters.items()} if tensors is None else tensors
        counts = {name: len(index) for name, index in self._indices.items() if len(index)}
        if counts != {name: value.numel() for name, value in values.items()}:
            raise BadInputError("these values are of other elements: resume with the mask they were saved under")
        for name, value in values.items():
            target = targets[name]
            position = self._indices[name].flat(target.device)
            target.view(-1).index_copy_(0, position, value.to(device=target.device, dtype=target.dtype))

    def undo_casts(self) -> list[str]:
        """Give tensors that were cast since the block began their exact values and dtype back; returns their names.

        TRL's trainers cast the adapter of a quantised base to bfloat16 when they are made, which rounds the elements
        that must not change. Call this after making the trainer and before training.
        """
        changed = []
        for name, parameter in self._parameters.items():
            if parameter.dtype != self._originals[name].dtype:
                parameter.data = self._originals[name].to(parameter.device)
                changed.append(name)
        return changed

    def _zero_inactive(self, name: str, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if not gradient.is_contiguous():
            gradient = parameter.grad = gradient.contiguous()
        flat = gradient.view(-1)
        position = self._indices[name].flat(flat.device)
        # Copied out and back rather than multiplied: NaN and infinity in an inactive element times zero would stay.
        kept = flat.index_select(0, position)
        flat.zero_()
        flat.scatter_(0, position, kept)

    @contextmanager
    def _hooked(self) -> Iterator[MaskedTraining]:
        handles = [
            p.register_post_accumulate_grad_hook(partial(self._zero_inactive, name))  # type: ignore[no-untyped-call]
            for name, p in self._parameters.items()
        ]
        self._open = True
        try:
            yield self
        finally:
            self._open = False
            for handle in handles:
                handle.remove()


@contextmanager
def masked_training(
    model: torch.nn.Module,
    mask: Mapping[str, torch.Tensor],
    rank: int | None = None,
    *,
    adapter_name: str = DEFAULT_ADAPTER,
) -> Iterator[MaskedTraining]:
    """Train only the mask's elements of one adapter, as long as the block lasts.

        with masked_training(model, partition.mask("system1")) as masked:
            trainer = SFTTrainer(model, optimizers=(masked.optimizer(lr=2e-4), None), ...)
            trainer.train()

    Args:
        model: a PEFT model attached or loaded as trainable.
        mask: bool tensors by PEFT state-dict name, each of its trainable slice's shape, one for every LoRA tensor.
        rank: trainable rank r; None takes what attach or load_adapter noted.
        adapter_name: the adapter to train; others of the model (TRL's `ref`) are not touched.

    Raises:
        TrainingError: the mask is empty, or the adapter was not loaded to be trained: the run would train nothing.
        BadInputError: the mask lacks a tensor, names an unknown one, or has a wrong shape or dtype.
    """
    parameters = adapter_parameters(model, adapter_name)
    assert_trainable(model, adapter_name)
    indices = _indices(parameters, mask, trainable_rank(model, rank))
    training = MaskedTraining(parameters, indices)
    if training.active_elements == 0:
        raise TrainingError(
            "this run would train nothing: the mask has no active element; raise theta or the shared fraction"
        )
    with training._hooked():
        yield training


def _indices(
    parameters: Mapping[str, torch.nn.Parameter], mask: Mapping[str, torch.Tensor], rank: int
) -> dict[str, ActiveIndex]:
    check_mask(parameters, mask, rank)
    indices = {}
    for name, parameter in parameters.items():
        whole = torch.zeros(parameter.shape, dtype=torch.bool)
        trainable_slice(name, whole, rank).copy_(mask[name])
        indices[name] = ActiveIndex(whole)
    return indices


def check_mask(tensors: Mapping[str, torch.Tensor], mask: Mapping[str, torch.Tensor], rank: int) -> None:
    """Raise BadInputError unless the mask has exactly these tensors, as bool of their trainable slices' shapes."""
    differing = sorted(set(tensors) ^ set(mask))
    if differing:
        what = "lacks" if differing[0] in tensors else "names a tensor the adapter lacks:"
        raise BadInputError(
            f"the mask {what} '{differing[0]}' ({len(differing)} such tensors): "
            "use a partition made from this adapter's scores"
        )
    for name, tensor in tensors.items():
        expected = tuple(trainable_slice(name, tensor, rank).shape)
        if tuple(mask[name].shape) != expected or mask[name].dtype != torch.bool:
            raise BadInputError(
                f"the mask of '{name}' is {mask[name].dtype} of shape {tuple(mask[name].shape)}, not bool of shape "
                f"{expected}: use a partition made from this adapter's scores and the same rank"
            )
