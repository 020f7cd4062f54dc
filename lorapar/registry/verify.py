"""Proof that a published folder is the trained model: both are loaded, each its own way, and asked the same.

In float32 their logits agree to 1e-4. In narrower formats one more rounding anywhere may move a logit by more than
that, so there the greedy texts must be equal, and the mean KL divergence is stated. An adapter that was trained on a
quantised base is compared there, and then, for it may be served so, on the full base: that difference is stated and
refuses nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from lorapar.config import ModelConfig
from lorapar.errors import IntegrityError
from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MAX_LOGIT_DIFFERENCE = 1e-4
"""Largest difference of two float32 logits that counts as equal."""
GREEDY_TOKENS = 24
FIXED_PROMPT = "What is two and two?"
QUESTIONS = (
    "A train goes 60 km in 45 minutes. How fast is it in km per hour?",
    "Name the capital of France.",
    "Write a short sentence about the sea.",
    "What is 17 plus 25? Think step by step.",
)
"""What two models are asked where no rows of a run are at hand."""


class Verification(BaseModel):
    """What was compared, and how far the two models were apart."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    dtype: str
    prompts: int
    positions: int
    """Tokens whose logits were compared."""
    max_logit_difference: float
    mean_kl: float
    """Mean KL divergence of the published model's next-token distribution from the trained one's, in nats."""
    equal_greedy_texts: int
    """Prompts, of all, whose greedy continuations were the same token for token."""
    max_change_of_base: float
    """Largest difference between a logit of the published model and of the bare base: what the adapter does at all."""
    quantization: str | None = None
    """How the base was held that all this was measured on; None: in `dtype`."""
    full_base_max_logit_difference: float | None = None
    """The same of the published adapter on the full base, from the trained model on the quantised one."""
    full_base_mean_kl: float | None = None
    full_base_equal_greedy_texts: int | None = None
    full_base_left_out: str | None = None
    """Why the full base was not looked at."""

    @property
    def is_exact(self) -> bool:
        """Whether logits are computed in float32, so that equal models give equal ones."""
        how = self.quantization
        return self.dtype == "float32" and (how is None or (how.startswith("nf4") and how.endswith("float32")))


@dataclass(frozen=True)
class Outputs:
    """What one model says."""

    logits: list[torch.Tensor]
    """Of each prompt, [tokens, vocabulary] float32 on the CPU."""
    greedy: list[list[int]]


def verify_package(
    model: ModelConfig, trained: Path, published: Path, questions: Sequence[str], progress: Progress
) -> Verification:
    """Compare the trained model with the published folder under plain PEFT; raises IntegrityError where they differ."""
    return _verified(model, trained, published, questions, progress, refuse=True)


def compare_packages(
    model: ModelConfig, first: Path, second: Path, questions: Sequence[str], progress: Progress
) -> Verification:
    """As `verify_package`, of two folders that may differ: says by how much, and refuses nothing."""
    return _verified(model, first, second, questions, progress, refuse=False)


def _verified(
    model: ModelConfig, trained: Path, published: Path, questions: Sequence[str], progress: Progress, *, refuse: bool
) -> Verification:
    import_at_once(*MODEL_LIBRARIES)
    from lorapar.adapter import load_adapter
    from lorapar.adapter.files import load_published
    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.prompts import prompt_ids

    tokenizer = load_tokenizer(model)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in (FIXED_PROMPT, *questions)]
    progress.start("comparing the published adapter with the trained one", total=2)
    base = load_model(model, progress)
    base_logits = _logits(base, prompts)
    expected = _outputs(load_adapter(base, trained, trainable=False), prompts, tokenizer)
    progress.advance()
    # A base of its own for each, so that nothing the first left behind can help the second; one in memory at a time.
    del base
    gc.collect()
    found = _outputs(load_published(load_model(model, progress), published), prompts, tokenizer)
    progress.advance()
    verification = _compare(model, expected, found, base_logits)
    if refuse:
        _refuse_difference(verification)
    if model.quantization == "none":
        return verification
    return verification.model_copy(update=_on_full_base(model, published, prompts, tokenizer, expected, progress))


def _on_full_base(
    model: ModelConfig,
    published: Path,
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    expected: Outputs,
    progress: Progress,
) -> dict[str, float | int | str]:
    """What the published adapter answers on the base that is not quantised, where there is memory for that."""
    from lorapar.adapter.files import load_published
    from lorapar.basemodel import load_model

    gc.collect()
    if (reason := _no_room(model.full)) is not None:
        progress.log(f"the published adapter is not compared on the full base: {reason}")
        return {"full_base_left_out": reason}
    full = _outputs(load_published(load_model(model.full, progress), published), prompts, tokenizer)
    found = _compare(model, expected, full, expected.logits)
    progress.log(
        f"on the full base the published adapter differs from the trained model on {model.quantization} by a mean KL "
        f"of {found.mean_kl:g}, {found.equal_greedy_texts} of {found.prompts} greedy texts equal"
    )
    names = ("max_logit_difference", "mean_kl", "equal_greedy_texts")
    return {f"full_base_{name}": getattr(found, name) for name in names}


def _no_room(full: ModelConfig) -> str | None:
    """Why a base does not fit into memory that is free; None where it does, or where its sizes are not known."""
    import psutil
    import torch

    from lorapar.basemodel.shape import model_shape

    shape = model_shape(full)
    if shape is None:
        return None
    needed = shape.parameters * torch.finfo(getattr(torch, full.dtype)).bits // 8
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    free = sum(torch.cuda.mem_get_info(place)[0] for place in gpus) if gpus else psutil.virtual_memory().available
    return f"it takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free" if needed > 0.9 * free else None


def _outputs(model: torch.nn.Module, prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> Outputs:
    from lorapar.basemodel import StopStrings, answer_end
    from lorapar.evaluation import generate_greedy

    greedy = generate_greedy(
        model.eval(),
        prompts,
        stop_ids=answer_end(tokenizer).token_ids,
        pad_id=int(tokenizer.pad_token_id),
        max_new_tokens=GREEDY_TOKENS,
        strings=StopStrings(tokenizer),
    )
    return Outputs(_logits(model, prompts), greedy)


def _logits(model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        # The prompt's own positions: prompt tuning has others before them.
        return [
            model(torch.tensor([prompt], device=device)).logits[0, -len(prompt) :].float().cpu() for prompt in prompts
        ]


def _compare(model: ModelConfig, expected: Outputs, found: Outputs, base_logits: list[torch.Tensor]) -> Verification:
    import torch

    trained, published, base = (torch.cat(rows).double() for rows in (expected.logits, found.logits, base_logits))
    log_p, log_q = trained.log_softmax(-1), published.log_softmax(-1)
    return Verification(
        dtype=model.dtype,
        quantization=model.quantization_text,
        prompts=len(expected.logits),
        positions=len(trained),
        max_logit_difference=_rounded((published - trained).abs().max()),
        mean_kl=_rounded((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        equal_greedy_texts=sum(a == b for a, b in zip(expected.greedy, found.greedy, strict=True)),
        max_change_of_base=_rounded((published - base).abs().max()),
    )


def _rounded(value: torch.Tensor) -> float:
    return float(f"{float(value):.4g}")


def _refuse_difference(found: Verification) -> None:
    close = found.max_logit_difference <= MAX_LOGIT_DIFFERENCE
    same = close if found.is_exact else found.equal_greedy_texts == found.prompts
    # NaN is never smaller or equal; in narrow formats it would hide behind equal texts.
    if not same or found.mean_kl != found.mean_kl:
        raise IntegrityError(
            "the adapter under plain PEFT does not answer as the trained model does, so it is not published: largest "
            f"logit difference {found.max_logit_difference:g}, mean KL {found.mean_kl:g}, "
            f"{found.equal_greedy_texts} of {found.prompts} greedy texts equal; train again, and report this as a bug"
        )
