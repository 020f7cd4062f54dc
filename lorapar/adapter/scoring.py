"""Score every LoRA element by how much the loss depends on it.

Source: LoRA-PAR, section 3.2 ("parameter partitioning via importance"). For element phi_j and the N examples of one
system, with L_n the mean cross-entropy over example n's answer tokens:

    g_j = mean_n dL_n/dphi_j        F_jj = mean_n (dL_n/dphi_j)^2        I_j = | g_j phi_j - 0.5 F_jj phi_j^2 |

F (the empirical diagonal Fisher) needs per-example gradients: the square of a batch's gradient is another number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from lorapar.adapter.names import DEFAULT_ADAPTER, lora_parameters, trainable_slice
from lorapar.adapter.per_example import PerExampleGradients, frozen_for_scoring
from lorapar.adapter.settings import trainable_rank
from lorapar.config.adapter import Measure
from lorapar.errors import BadInputError, TrainingError

IGNORED_LABEL = -100


def score_elements(
    model: torch.nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    rank: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """One float32 score per trainable LoRA element, from the examples of one system.

    Args:
        model: a PEFT model with the adapter `default`; its mode, flags and gradients come back as they were.
        batches: dicts of `input_ids`, `attention_mask` and `labels`, each [n, t] integers; labels are -100 on the
            prompt and on padding. Examples may differ in length and batches in size: the scores do not depend on how
            examples are batched.
        rank: trainable rank r; None takes what attach or load_adapter noted.
        on_batch: called after each batch with the number of examples so far.

    Returns:
        Tensors on the CPU keyed like the PEFT state dict, each of the shape of its trainable slice.

    Raises:
        BadInputError: no batch, an example without answer tokens (its index is named), or a missing key.
        TrainingError: a loss or score is NaN or infinite (the example or tensor is named).
    """
    accumulator = ScoreAccumulator(model, rank=rank)
    for batch in batches:
        accumulator.update(batch)
        if on_batch is not None:
            on_batch(accumulator.examples)
    return accumulator.scores()


class ScoreAccumulator:
    """Running sums of per-example gradients and their squares, in float64, so that scoring can stop and resume."""

    def __init__(self, model: torch.nn.Module, *, rank: int | None = None, adapter_name: str = DEFAULT_ADAPTER) -> None:
        """Start at zero examples for the adapter of this model (see `score_elements` for the arguments)."""
        self._model = model
        self._rank = trainable_rank(model, rank)
        self._adapter_name = adapter_name
        self._values = {
            name: trainable_slice(name, parameter.detach(), self._rank)
            for name, parameter in lora_parameters(model, adapter_name).items()
        }
        self._sum = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in self._values.items()}
        self._sum_of_squares = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in self._values.items()}
        self.examples = self._first = 0

    def update(self, batch: Mapping[str, torch.Tensor], first: int | None = None) -> None:
        """Add one batch; where this raises, the sums are as they were.

        `first`: the number of its first example in messages, where that is not how many were added before.
        """
        self._first = self.examples if first is None else first
        hooks = PerExampleGradients(self._model, self._rank, self._adapter_name)
        with frozen_for_scoring(self._model), torch.enable_grad(), hooks as collected:
            losses = self._losses(batch)
            torch.autograd.backward(losses.sum())
        if not collected.gradients:
            raise BadInputError(
                f"adapter '{self._adapter_name}' takes no part in the forward pass: it is disabled, merged, or another "
                "adapter is active; call model.set_adapter() on it first"
            )
        for name, gradient in collected.gradients.items():
            wide = gradient.double()
            self._sum[name] += wide.sum(0)
            self._sum_of_squares[name] += wide.square_().sum(0)
        self.examples += losses.shape[0]

    def scores(self) -> dict[str, torch.Tensor]:
        """The scores of all examples so far, float32 on the CPU.

        Raises:
            BadInputError: no example was added.
            TrainingError: a score is NaN or infinite; the message names the tensor.
        """
        if self.examples == 0:
            raise BadInputError("there is no example to score with: the system's data set is empty")
        return {name: self._score(name) for name in self._values}

    def measure(self, name: Measure) -> dict[str, torch.Tensor]:
        """What else elements may be ranked by, the mean gradient or the value without its sign; float32 on the CPU."""
        found = self._values if name == "magnitude" else self._sum
        divisor = 1 if name == "magnitude" else max(1, self.examples)
        return {key: (tensor.double().abs() / divisor).float().cpu() for key, tensor in found.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums as flat CPU tensors, ready for safetensors."""
        state = {"examples": torch.tensor(self.examples)}
        for name in self._values:
            state[f"gradient/{name}"] = self._sum[name].cpu().clone()
            state[f"square/{name}"] = self._sum_of_squares[name].cpu().clone()
        return state

    def sums(self) -> list[torch.Tensor]:
        """The sums themselves, where the model is; the code that adds to them counts the examples too."""
        return [*self._sum.values(), *self._sum_of_squares.values()]

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state_dict()`; the model must carry the same adapter values as then.

        Raises:
            BadInputError: the state belongs to other tensors.
        """
        self.examples = 0
        for tensor in self.sums():
            tensor.zero_()
        self.add_state_dict(state)

    def add_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Add what another accumulator of the same adapter has summed up; raises as `load_state_dict`."""
        expected = {key: tuple(tensor.shape) for key, tensor in self.state_dict().items()}
        given = {key: tuple(tensor.shape) for key, tensor in state.items()}
        if expected != given:
            different = sorted(set(expected.items()) ^ set(given.items()))[0][0]
            raise BadInputError(f"this scoring state is for another adapter ('{different}' differs): score again")
        self.examples += int(state["examples"])
        for name, value in self._values.items():
            self._sum[name] += state[f"gradient/{name}"].to(value.device)
            self._sum_of_squares[name] += state[f"square/{name}"].to(value.device)

    def _score(self, name: str) -> torch.Tensor:
        phi = self._values[name].double()
        mean_gradient = self._sum[name] / self.examples
        fisher = self._sum_of_squares[name] / self.examples
        score = (mean_gradient * phi - 0.5 * fisher * phi.square()).abs().float().cpu()
        if not bool(torch.isfinite(score).all()):
            raise TrainingError(
                f"the scores of '{name}' are not all finite: the model overflows on this data; "
                "load it in float32 or bfloat16 and check its weights"
            )
        return score

    def _losses(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        device = self._model.get_input_embeddings().weight.device  # type: ignore[operator]
        fields = {key: _field(batch, key).to(device) for key in ("input_ids", "attention_mask", "labels")}
        labels = fields.pop("labels")[:, 1:]
        answered = labels != IGNORED_LABEL
        self._check_answers(answered)
        with _answers_only(self._model, F.pad(answered, (0, 1))):
            logits = self._model(**fields, use_cache=False).logits
        # One row of answer positions where the head was given no others.
        chosen = logits[0] if logits.shape[:2] != fields["input_ids"].shape else logits[:, :-1][answered]
        losses = _row_means(chosen, labels, answered)
        broken = torch.nonzero(~torch.isfinite(losses))
        if len(broken):
            raise TrainingError(
                f"the loss of scoring example {self._first + int(broken[0])} is not finite: "
                "load the model in float32 or bfloat16 and check its weights"
            )
        return losses

    def _check_answers(self, answered: torch.Tensor) -> None:
        empty = torch.nonzero(~answered.any(dim=1))
        if len(empty):
            raise BadInputError(
                f"scoring example {self._first + int(empty[0])} has no answer token (every label it predicts is "
                f"{IGNORED_LABEL}): its answer is empty or was cut off; raise the length limit or drop the row"
            )


def mean_answer_loss(logits: torch.Tensor, labels: torch.Tensor, answered: torch.Tensor) -> torch.Tensor:
    """Each example's mean cross-entropy over its answer tokens, [n] float32 (float64 for float64 logits).

    Args:
        logits: [n, t, vocabulary], already shifted: position k predicts `labels[:, k]`.
        labels: [n, t] token ids.
        answered: [n, t] bool, True where the label counts; at least one per row.
    """
    return _row_means(logits[answered], labels, answered)


def _row_means(logits: torch.Tensor, labels: torch.Tensor, answered: torch.Tensor) -> torch.Tensor:
    """As `mean_answer_loss`, given the logits of the answer tokens alone, row after row: [k, vocabulary]."""
    # Only answer positions are widened to float32: with a large vocabulary the prompt's logits would dominate memory.
    wide = logits if logits.dtype == torch.float64 else logits.float()
    token_losses = F.cross_entropy(wide, labels[answered], reduction="none")
    row = torch.nonzero(answered)[:, 0]
    sums = token_losses.new_zeros(labels.shape[0]).index_add(0, row, token_losses)
    return sums / answered.sum(dim=1)


@contextmanager
def _answers_only(model: torch.nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the output head sees the positions in the mask only, as one row: [1, k, width].

    A vocabulary of 49,152 is a fifth of a small model's arithmetic, and most positions are the prompt's. A head that
    carries LoRA keeps all, because its per-example gradients need the examples apart; so does a batch that has as
    many answer tokens in its one row as positions.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or next(head.children(), None) is not None or wanted.shape == (1, int(wanted.sum())):
        yield
        return

    def pick(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        states, *others = inputs
        # Of a base whose layers are on several GPUs the head sees the states of another one than the tokens are on.
        return (states[wanted.to(states.device)][None], *others) if states.shape[:2] == wanted.shape else None

    # Before the hook that copies the slice of states it is given: what is picked is in one piece already.
    handle = head.register_forward_pre_hook(pick, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _field(batch: Mapping[str, torch.Tensor], key: str) -> torch.Tensor:
    if key not in batch:
        raise BadInputError(f"a scoring batch has no '{key}': it needs input_ids, attention_mask and labels")
    return batch[key]
