"""Which models can be tuned: decoders alone, whose output for a token depends neither on later tokens nor on padding.

`require_decoder` knows by the class and the type, from config.json alone. `try_decoder` asks the loaded model itself:
it finds what no list has, such as models with code of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.quiet import quiet
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_UNFIT = {
    "deepseek_v4": "a model that compresses padding with a prompt, which then is another prompt to it",
    **dict.fromkeys(
        ("rwkv", "xlstm"), "a model whose state takes in padding, so that a prompt in a batch is another one"
    ),
    **dict.fromkeys(("git", "reformer"), "a model that counts padding among its positions when it generates"),
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"), "a model that drafts for another one, whose states it reads"
    ),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "a model that writes sound and no text"),
    **dict.fromkeys(("xlm", "xlnet", "cpmant"), "a model that reads a text both ways"),
}
"""Types of which `forward` does not tell it (seen with random weights in transformers 5.23)."""
_OFF = 0.2
"""Root mean square of a difference between logits, in their own standard deviations, that rounding does not explain.

Seen: 1e-6 where a model keeps the promise, 0.25 to 1 where it does not, all in float32.
"""
_PROMPT, _PADS = 8, 24
_TEXT = "Two and two is four, and three more is seven."


def require_tunable_type(values: Mapping[str, Any], config: ModelConfig) -> None:
    """Raise BadInputError for a config.json of a type that cannot be tuned, before a model is made of it."""
    kind = values.get("model_type")
    if kind in _UNFIT:
        _refuse(str(kind), config, _UNFIT[str(kind)])


def require_decoder(model: PreTrainedModel, config: ModelConfig) -> None:
    """Raise BadInputError for a model that reads what follows a token, that counts padding, or that has an encoder.

    The first would see the answers it learns. The others (BART's, Whisper's decoder) count positions from the first
    column, so that prompts padded to one length would be other prompts to them.
    """
    takes = inspect.signature(model.forward).parameters
    beside_encoder = bool({"encoder_hidden_states", "encoder_outputs"} & set(takes))
    name = type(model).__name__
    if beside_encoder and "position_ids" not in takes:
        _refuse(name, config, "the decoder of a model with an encoder")
    if beside_encoder and getattr(model.config, "is_decoder", True) is False:
        _refuse(name, config, "an encoder, which reads a text both ways")
    require_tunable_type({"model_type": model.config.model_type}, config)


def try_decoder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
    """Run a loaded model on a few words and raise BadInputError where it is not a decoder that padding leaves alone.

    Four short calls: the words, the words with another second half, and two tokens generated behind padding, which must
    be scored as they are without any.
    """
    import torch

    ids = tokenizer(_TEXT, add_special_tokens=False)["input_ids"][:24]
    half, prompt = len(ids) // 2, ids[:_PROMPT]
    if len(prompt) < _PROMPT:
        return  # a vocabulary that has no words for this
    with torch.no_grad(), _that_runs(model, f"model.name: {config.name}"):
        alone, ahead = _scores(model, ids), _scores(model, [*ids[:half], *ids[:half]])
        tokens, padded = _behind_padding(model, prompt, int(tokenizer.pad_token_id))
        expected = _scores(model, [*prompt, *tokens])[_PROMPT - 1 : -1]
    if _distance(ahead[:half], alone[:half]) > _OFF:
        _refuse(type(model).__name__, config, "a model that reads a text both ways")
    if _distance(padded, expected) > _OFF:
        _refuse(type(model).__name__, config, "a model to which a prompt behind padding is another prompt")


def require_runs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
    """Raise BadInputError, beginning with `whose`, where a loaded model cannot read a few words."""
    import torch

    ids = tokenizer(_TEXT, add_special_tokens=False)["input_ids"][:_PROMPT]
    with torch.no_grad(), _that_runs(model, whose):
        _scores(model, ids or [0])


@contextmanager
def _that_runs(model: PreTrainedModel, whose: str) -> Iterator[None]:
    """Within the block what a model's own code raises is one line: sizes of its config.json that do not go together."""
    import torch

    try:
        with quiet():
            yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise BadInputError(
            f"{whose} ({type(model).__name__}) does not run with the transformers that is installed: {reason}; "
            "name another model, or one whose config.json fits its type"
        ) from error


def _scores(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of one text."""
    import torch

    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return logits[0].float()


def _behind_padding(model: PreTrainedModel, ids: Sequence[int], pad: int) -> tuple[list[int], torch.Tensor]:
    """Two tokens generated for a prompt with pads before it, and the logits they were chosen by."""
    import torch

    row = torch.tensor([[pad] * _PADS + list(ids)], device=model.device)
    mask = torch.ones_like(row)
    mask[:, :_PADS] = 0
    made = model.generate(
        input_ids=row,
        attention_mask=mask,
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack([step[0] for step in made.logits]).float()
    return made.sequences[0, row.shape[1] :].tolist(), logits


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt() / other.std())


def _refuse(kind: str, config: ModelConfig, what: str) -> None:
    raise BadInputError(
        f"model.name: {config.name} is {what} ({kind}), and only decoders by themselves are tuned, by "
        "prompts padded to one length; name another model, such as one of Llama's, Qwen's or Gemma's"
    )
