"""Check with llama.cpp itself (the package xllamacpp) whether it answers with a GGUF adapter like plain PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.errors import BadInputError, IntegrityError
from lorapar.extras import pip_install
from lorapar.progress import Progress
from lorapar.serving.gguf_lora import MAGIC, family_of
from lorapar.serving.here import LocalAdapter

if TYPE_CHECKING:
    import torch

EXACT_KL = 1e-5
"""Mean KL in nats that rounding alone explains where both sides have the same numbers."""


@dataclass(frozen=True)
class Compared:
    """How far llama.cpp and PEFT differ: mean KL divergence of next-token distributions, in nats."""

    prompts: int
    mean_kl: float
    base_mean_kl: float
    """The same for the base alone, without an adapter: the effect of its file's number format."""
    effect_kl: float
    """Between base with adapter and the base alone, under PEFT: the adapter's own effect."""
    largest_difference: float
    """The largest difference of a log-probability, with the adapter."""


def require_llama_cpp(base: Path) -> None:
    """Raise BadInputError if xllamacpp is not installed or `base` is no GGUF file."""
    if find_spec("xllamacpp") is None:
        raise BadInputError(
            "--base with --gguf compares by llama.cpp, and xllamacpp is not installed here; "
            f"{pip_install('llamacpp')}, or leave --base out"
        )
    if not base.is_file():
        raise BadInputError(f"--base {base}: there is no such file; with --gguf it is the base model in GGUF")
    with base.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise BadInputError(f"--base {base}: is no GGUF file; with --gguf it is the base model in GGUF")


def compare(adapter: LocalAdapter, file: Path, base: Path, progress: Progress) -> Compared:
    """Compare the next-token distributions of base and adapter under PEFT and llama.cpp, with prompts as token ids.

    Raises IntegrityError where the adapter's distributions differ by more than ten times the base's plus rounding;
    BadInputError where llama.cpp cannot load the two files together.
    """
    import torch

    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.evaluation.transformers_engine import with_adapter
    from lorapar.prompts import prompt_ids
    from lorapar.registry.verify import FIXED_PROMPT, QUESTIONS

    tokenizer = load_tokenizer(adapter.model, progress)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in (FIXED_PROMPT, *QUESTIONS)]
    _require_architecture(adapter, base)
    progress.start("comparing with llama.cpp", total=2)
    # llama.cpp computes in float32, whatever the weights' format.
    model = load_model(adapter.model.full.model_copy(update={"dtype": "float32", "autocast": "none"}), progress)
    plain = _next_log_probabilities(model, prompts)
    with with_adapter(model, adapter.folder) as adapted:
        expected = _next_log_probabilities(adapted, prompts)
    progress.advance()
    written = tokenizer.encode("a", add_special_tokens=False)[-1]
    engine = LlamaCpp(base, file, max(map(len, prompts)) + 8, written)
    size = int(expected.shape[1])
    found = torch.stack([engine.next_log_probabilities(prompt, size, adapted=True) for prompt in prompts])
    bare = torch.stack([engine.next_log_probabilities(prompt, size, adapted=False) for prompt in prompts])
    progress.advance()
    compared = Compared(
        prompts=len(prompts),
        mean_kl=_mean_kl(expected, found),
        base_mean_kl=_mean_kl(plain, bare),
        effect_kl=_mean_kl(expected, plain),
        largest_difference=_largest(expected, found),
    )
    _refuse_difference(adapter, compared)
    return compared


class LlamaCpp:
    """A base model with a LoRA adapter in llama.cpp, in this process."""

    def __init__(self, base: Path, adapter: Path, context: int, written: int) -> None:
        """Load both, with keys and values in float32 and without flash attention.

        `written` is a token that is plain text by itself, such as that of "a". Raises BadInputError where llama.cpp
        cannot load them; its reason is on standard error.
        """
        import xllamacpp

        self._written = written
        settings = xllamacpp.CommonParams()
        settings.model.path = str(base)
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        settings.n_ctx, settings.n_parallel, settings.warmup, settings.fit_params = context, 1, False, False
        settings.ui, settings.verbosity = False, 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError:
            raise BadInputError(
                f"--base {base}: llama.cpp does not load it with this adapter (it says why above); give the base model "
                "that the adapter was trained on"
            ) from None

    def next_log_probabilities(self, prompt: Sequence[int], size: int, *, adapted: bool) -> torch.Tensor:
        """Log-probabilities [size], float64, of the token after a prompt; NaN where llama.cpp knows no such token."""
        import torch

        answer = self._server.handle_completions(
            {
                "prompt": list(prompt),
                "max_tokens": 1,
                "logprobs": size,
                "n_probs": size,
                # The probabilities belong to the logits before this token, but come only with a token that is text.
                "logit_bias": [[self._written, 1e6]],
                "temperature": 0.0,
                "cache_prompt": False,
                "lora": [{"id": 0, "scale": float(adapted)}],
            }
        )
        found = torch.full((size,), float("nan"), dtype=torch.float64)
        for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            if one["id"] < size:
                found[one["id"]] = one["logprob"]
        return found


def _require_architecture(adapter: LocalAdapter, base: Path) -> None:
    from gguf import GGUFReader

    field = GGUFReader(base).get_field("general.architecture")
    found, wanted = None if field is None else field.contents(), family_of(adapter).architecture
    if found != wanted:
        raise BadInputError(
            f"--base {base}: is a model of the architecture {found}, and the adapter's base model is of {wanted}; give "
            "the base model that the adapter was trained on"
        )


def _next_log_probabilities(model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """[prompts, vocabulary], float64."""
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        rows = [model(torch.tensor([prompt], device=device)).logits[0, -1].cpu() for prompt in prompts]
    return torch.stack(rows).double().log_softmax(-1)


def _mean_kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Mean KL; tokens that only one side has, padding of the embedding, do not count."""
    both = found.isfinite()
    terms = (expected.exp() * (expected - found)).where(both, 0.0)
    return max(0.0, float(f"{float(terms.sum(-1).mean()):.4g}"))


def _largest(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float(f"{float((found - expected).abs().where(found.isfinite(), 0.0).max()):.4g}")


def _refuse_difference(adapter: LocalAdapter, found: Compared) -> None:
    if not found.mean_kl <= EXACT_KL + 10 * found.base_mean_kl:
        raise IntegrityError(
            f"{adapter.name}: llama.cpp does not answer with the adapter as PEFT does, so it is not kept: mean KL "
            f"{found.mean_kl:g} nats, of the base alone {found.base_mean_kl:g}; is --base the base model that it was "
            "trained on?"
        )
