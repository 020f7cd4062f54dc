"""Per-example gradients of LoRA matrices from one batched backward pass.

Shape letters: n examples in the batch, t tokens, i inputs and o outputs of one LoRA matrix (a linear layer without
bias). With saved input X [n, t, i] and gradient G [n, t, o] of the output, example n's gradient of the matrix is the
small product G[n]^T X[n] of shape [o, i]. It is exact because the rows of a batch do not see one another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lorapar.adapter.names import DEFAULT_ADAPTER, canonical_name
from lorapar.errors import BadInputError

ForwardHook = Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]


class PerExampleGradients:
    """Hooks on one adapter's A and B that collect the trainable part of per-example gradients, float32 or wider.

    Used as a context manager around forward and backward of one loss that is a sum over examples; afterwards
    `gradients` maps each tensor's name to [n, *shape of the trainable slice].
    """

    def __init__(self, model: torch.nn.Module, rank: int, adapter_name: str = DEFAULT_ADAPTER) -> None:
        """Remember the model; hooks are set on entry."""
        self._model = model
        self._rank = rank
        self._adapter_name = adapter_name
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._examples = self._tokens = 0
        self.gradients: dict[str, torch.Tensor] = {}

    def __enter__(self) -> PerExampleGradients:
        """Set the hooks."""
        marker = re.compile(rf"\.lora_[AB]\.{re.escape(self._adapter_name)}$")
        for path, module in self._model.named_modules():
            if marker.search(path):
                name = f"{canonical_name(path, self._adapter_name)}.weight"
                self._handles.append(module.register_forward_pre_hook(_begun))
                self._handles.append(module.register_forward_hook(self._on_forward(name)))
        embeddings = self._model.get_input_embeddings()  # type: ignore[operator]
        self._handles.append(embeddings.register_forward_hook(self._on_embeddings))
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the hooks out."""
        while self._handles:
            self._handles.pop().remove()

    def _on_embeddings(
        self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        # All parameters are frozen while scoring, which spares every weight gradient; something has to start the graph.
        # A copy does: some models scale their embeddings in place (CTRL), which a tensor that starts one forbids.
        self._examples, self._tokens = output.shape[:2]
        return output.requires_grad_(True).clone()

    def _on_forward(self, name: str) -> ForwardHook:
        def keep_input(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not output.requires_grad:  # the first, graph-less pass of activation checkpointing
                return
            seen = inputs[0].detach()
            output.register_hook(lambda gradient: self._add(name, seen, gradient))  # type: ignore[no-untyped-call]

        return keep_input

    def _add(self, name: str, seen: torch.Tensor, gradient: torch.Tensor) -> None:
        if seen.dim() == 2 and seen.shape[0] == self._examples * self._tokens:
            # Some layers get their tokens in one row, example after example (shared experts, BLOOM's and OPT's MLPs).
            seen = seen.reshape(self._examples, self._tokens, -1)
            gradient = gradient.reshape(self._examples, self._tokens, -1)
        if seen.dim() > 3 and seen.shape[0] == self._examples:
            # Latent attention holds a dimension of heads, or of nothing, between the example and its tokens.
            seen, gradient = seen.flatten(1, -2), gradient.flatten(1, -2)
        if seen.dim() != 3 or seen.shape[0] != self._examples:
            raise BadInputError(
                f"'{name}' sees its batch as {tuple(seen.shape)}, so examples cannot be told apart in it: "
                "score with batches of one example"
            )
        if name.endswith(".lora_A.weight"):
            gradient = gradient[..., : self._rank]
        else:
            seen = seen[..., : self._rank]
        product = torch.bmm(_wide(gradient).transpose(1, 2), _wide(seen))
        # A layer that runs twice in one forward pass adds up before anything is squared.
        self.gradients[name] = self.gradients[name] + product if name in self.gradients else product


def _begun(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """Start the graph at a matrix whose input does not come from the embeddings, such as features of other tables."""
    seen, *others = inputs
    if seen.requires_grad or not torch.is_grad_enabled():
        return None
    return (seen.detach().requires_grad_(True), *others)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


@contextmanager
def frozen_for_scoring(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off and every parameter frozen; each module's mode and each parameter's flag come back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
