"""`builtin:tiny`: a random Llama of 90,624 parameters with a byte-level tokenizer, for tests and dry runs.

Everything the real path needs is there (chat template, pad equal to end-of-turn, grouped queries, tied embeddings,
a head size that vLLM takes), but it knows nothing: scores made with it mean nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar.basemodel.quiet import quiet
from lorapar.records import digest_of

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

NAME = "builtin:tiny"
VERSION = 1
"""Raised whenever the weights or the tokenizer change: it decides the digest."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = len(SPECIAL_TOKENS) + 256
HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_DIM, FEED_FORWARD = 64, 2, 2, 1, 32, 128
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_digest() -> str:
    """Identity of the weights and the tokenizer."""
    return digest_of({"name": NAME, "version": VERSION})


def write_tiny(folder: Path) -> None:
    """Write model and tokenizer; equal on every machine and under every version of the libraries."""
    with quiet():
        model = _model()
        # Among several processes transformers 5.23 writes nothing in any but the first, which may be elsewhere.
        model.should_save_on_this_rank = lambda is_main_process: True
        model.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)


def _model() -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_values(name, tuple(parameter.shape))))
    return model


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Weights of one parameter from a seed of its own: independent of the order the library creates them in."""
    import numpy as np

    if "norm" in name:
        return np.ones(shape, dtype=np.float32)
    seed = int.from_bytes(hashlib.sha256(f"{NAME}/{VERSION}/{name}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) / np.float32(HIDDEN**0.5)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (so digits stand alone), and the special tokens of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end, start, stop = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=end,
        bos_token=start,
        eos_token=stop,
        pad_token=stop,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer
