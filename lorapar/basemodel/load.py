"""Fetch a resolved base model to this machine and load it. torch is imported when a function is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import bucket, tiny, wheel
from lorapar.basemodel.answer_end import answer_end, embedding_rows, generation_ends
from lorapar.basemodel.cache import cached_folder
from lorapar.basemodel.chat_template import settle_template
from lorapar.basemodel.decoder import require_decoder, require_tunable_type
from lorapar.basemodel.memory import give_back_large_blocks, keep_freed_memory, make_head_input_contiguous
from lorapar.basemodel.number_format import require_settled
from lorapar.basemodel.quantized import (
    compute_alike,
    is_quantized,
    load_library,
    quantization_options,
    sidecars_in,
    weights_read_one_by_one,
    with_sidecar,
)
from lorapar.basemodel.quiet import quiet
from lorapar.basemodel.resolve import Kind, kind_of, local_folder, resolve_model
from lorapar.basemodel.shape import config_values
from lorapar.basemodel.spread import is_spread, spreading_options
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress, Silent
from lorapar.store.file_system import is_no_mmap, warn_no_mmap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_folder(config: ModelConfig, progress: Progress | None = None) -> Path:
    """The folder with the model's files, downloaded, converted or generated where it must be.

    Raises BadInputError where the name stands for no model, UnreachableError where it cannot be had from here.
    """
    if kind_of(config) is Kind.LOCAL:
        return local_folder(config)
    config = resolve_model(config)
    shown = progress or Silent()
    kind = kind_of(config)
    if kind is Kind.BUILTIN:
        return cached_folder(f"tiny-v{tiny.VERSION}", tiny.write_tiny)
    if kind is Kind.WHEEL:
        return wheel.wheel_folder(shown)
    if kind is Kind.BUCKET:
        return bucket.bucket_folder(config, shown)
    from lorapar.basemodel import hub

    return hub.snapshot(config, shown)


def load_model(config: ModelConfig, progress: Progress | None = None, *, sharded: bool = False) -> PreTrainedModel:
    """The base model in evaluation mode, weights in `config.dtype` (settled, not `auto`), on the GPU if there is one.

    On several GPUs, layer by layer, where one has not the memory for it and this process sees them.
    `sharded`: each process of torch's process group reads and holds a part of every weight (FSDP2), and all must then
    make the same number of passes.
    With `config.quantization` the linear layers hold 8 or 4 bits, each quantised as its weight is read.
    Only safetensors are read, never pickled checkpoints; code that comes with the model runs only if the settings say
    so. Raises BadInputError and UnreachableError as `model_folder` does.
    """
    import torch
    from transformers import AutoModelForCausalLM

    require_settled(config)
    folder = model_folder(config, progress)
    with _readable(config):
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values = with_sidecar(values, sidecars_in(folder))
    require_tunable_type(values, config)
    device = default_device()
    quantized = is_quantized(config, values)
    if quantized:
        load_library()
    options = quantization_options(config, values) | ({"device_map": {"": device}} if quantized else {})
    spread = not sharded and is_spread(config)
    options |= _sharding_options() if sharded else spreading_options() if spread else {}
    read = partial(
        AutoModelForCausalLM.from_pretrained,
        folder,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        trust_remote_code=config.trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    with _readable(config), quiet(), weights_read_one_by_one() if quantized else nullcontext():
        model, missing = _read(read, folder, config)
    _require_whole(missing, config)
    if str(device) == "cpu":
        give_back_large_blocks() if sharded else keep_freed_memory()
    if quantized:
        compute_alike(model)
    elif not (sharded or spread):
        model.to(device)
    model.eval()
    _keep_tokens_only(model)
    make_head_input_contiguous(model)
    require_decoder(model, config)
    return model


def _read(
    read: Callable[..., tuple[PreTrainedModel, Mapping[str, Any]]], folder: Path, config: ModelConfig
) -> tuple[PreTrainedModel, Collection[str]]:
    """The model and the names of weights that none of its files has; without mmap where a file system has none."""
    from safetensors import SafetensorError

    try:
        model, about = read()
    except ValueError as error:
        if "has no `fsdp_plan`" not in str(error):
            raise
        raise BadInputError(
            f"sharding is fsdp2, and transformers has no plan of the layers of {config.name} to shard it by; set "
            "sharding to none"
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_no_mmap(error):
            raise
        warn_no_mmap(folder, error)
        model, about = read(disable_mmap=True)
    return model, about["missing_keys"]


def _keep_tokens_only(model: PreTrainedModel) -> None:
    """Leave the token ids alone of the model's own generation settings.

    transformers fills with them what a call leaves open: stop strings, which then fail for want of a tokenizer, or
    tokens that are never written, which a plain greedy answer knows nothing of. What ends an answer is read from the
    model's files (`lorapar.basemodel.answer_end`).
    """
    from transformers import GenerationConfig

    own = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    if own is not None:
        model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in names})


def _require_whole(missing: Collection[str], config: ModelConfig) -> None:
    """Raise BadInputError where weights of the model stand in none of its files: transformers draws them by chance."""
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise BadInputError(
            f"model.name: {config.name} lacks {len(missing):,} of its weights ({first}), which would be random; its "
            "files are not whole, or hold another kind of model: download it again, or name one that reads text alone"
        )


def _sharding_options() -> dict[str, Any]:
    import torch.distributed as dist
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(fsdp_size=dist.get_world_size())}


def load_skeleton(config: ModelConfig) -> PreTrainedModel | None:
    """A resolved model without its weights, on the device `meta`, from config.json alone: to see which modules it has.

    None where that cannot say: the model comes with code of its own, or in a form that transformers has no name for.
    Raises BadInputError where loading the weights would say the same: settings that make no model, an encoder.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    values = config_values(config)
    require_tunable_type(values, config)
    if values.get("model_type") not in CONFIG_MAPPING or "auto_map" in values:
        return None
    with TemporaryDirectory() as folder, _readable(config), torch.device("meta"), quiet():
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        read = AutoConfig.from_pretrained(folder, local_files_only=True)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(read)
    require_decoder(model, config)
    return model


def _broken_settings() -> tuple[type[Exception], ...]:
    """What transformers raises for a config.json that fits no model, or for weights that do not fit it."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        OSError,
        ImportError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        ZeroDivisionError,
        StrictDataclassError,
    )


def load_tokenizer(config: ModelConfig, progress: Progress | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer: pads on the right, has a pad token and one chat template (see `settle_template`).

    Its end token is its own or, where it has none, the one that its template or the model's settings name.
    Raises BadInputError where the folder holds no tokenizer that can be used.
    """
    return _tokenizer(config, model_folder(config, progress))


def load_tokenizer_alone(config: ModelConfig, progress: Progress | None = None) -> PreTrainedTokenizerBase:
    """As `load_tokenizer`, without bringing the weights here: for checks before anything starts."""
    return _tokenizer(config, text_folder(config, progress or Silent()))


def text_folder(config: ModelConfig, progress: Progress) -> Path:
    """A folder with the tokenizer's and the settings' files of a model; of other places only these are fetched."""
    config = resolve_model(config)
    kind = kind_of(config)
    if kind is Kind.HUB:
        from lorapar.basemodel import hub

        return hub.text_snapshot(config)
    if kind is Kind.BUCKET:
        return bucket.text_folder(config)
    return model_folder(config, progress)


def _tokenizer(config: ModelConfig, folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _readable(config), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    tokenizer.padding_side = "right"
    settle_template(tokenizer, config)
    _settle_end(tokenizer)
    _settle_pad(tokenizer)
    for parser in ("response_template", "response_schema"):
        # By these TRL would hand rewards an answer without its thought, and what cannot be parsed as nothing at all.
        if getattr(tokenizer, parser, None) is not None:
            setattr(tokenizer, parser, None)
    return tokenizer


def _settle_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """An end token where the tokenizer names none: libraries around it ask for one."""
    if tokenizer.eos_token is None:
        turn_end = answer_end(tokenizer).turn_end
        ends = [turn_end] if turn_end is not None else generation_ends(tokenizer)
        if ends:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])


def _settle_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """A pad token that the model has an embedding for; which one does not matter, masks come from lengths."""
    rows = embedding_rows(tokenizer)

    def fits(token: str | None) -> bool:
        known = None if token is None else tokenizer.convert_tokens_to_ids(token)
        return isinstance(known, int) and (rows is None or known < rows)

    others = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
    if not fits(tokenizer.pad_token):
        tokenizer.pad_token = next(filter(fits, others))


@contextmanager
def _readable(config: ModelConfig) -> Iterator[None]:
    """What transformers says about a folder it cannot read, in one line."""
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise BadInputError(
            f"model.name: {config.name} cannot be loaded: its weights are not of the sizes that its config.json says; "
            "copy the model again"
        ) from error
    except _broken_settings() as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split()).partition(" Model type should be one of ")[0]
        if reason.startswith("Unrecognized configuration class"):
            reason = "transformers has no causal language model of its type; name a decoder that reads text alone"
        if "backend tokenizer" in reason:
            reason = (
                "there is no tokenizer beside its weights that can be read: it takes tokenizer.json, or "
                "tokenizer.model and `pip install sentencepiece`; save the tokenizer there with save_pretrained"
            )
        raise BadInputError(f"model.name: {config.name} cannot be loaded: {kind}{reason}") from error
