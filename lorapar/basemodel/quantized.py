"""A base model in 4 or 8 bits through bitsandbytes, made to compute the same in every stage.

Two shortcuts of bitsandbytes 0.50 on a CPU are switched off. In evaluation mode its 4-bit layers repack their weights
in place for a kernel that works in bfloat16 and has no gradient: a loss taken afterwards gets a wrong gradient without
an error, and the base's bytes change. And its 8-bit layers round the activations, too, but only in evaluation mode, so
that scores and rollouts would come from another function than the one that is trained.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.extras import pip_install

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

PACKAGE = "bitsandbytes"
_ASKING = {
    "peft.import_utils": ("is_bnb_available", "is_bnb_4bit_available"),
    "transformers.utils.import_utils": ("is_bitsandbytes_available",),
}
"""Functions of other libraries that look for it once and remember what they found."""


SIDECARS = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files beside config.json that tools wrote before it named the method, or still write instead, and their methods."""
_NO_GRADIENT = "whose layers are made for answering: no gradient through them has been tested"
_REASONS = {
    "gptq": _NO_GRADIENT,
    "awq": _NO_GRADIENT,
    "compressed-tensors": "whose layers are unpacked to full precision or run without a gradient, as its version goes",
    "fp8": "whose matrix products run on GPUs alone and have no gradient",
    "fbgemm_fp8": "whose matrix products run on GPUs alone and have no gradient",
    "modelopt": "whose layers are made for engines that serve it",
    "mlx": "whose weights are packed for Apple's MLX, and transformers does not read them",
}


def what_to_do() -> str:
    """What to do where its package is missing."""
    return f"{pip_install('train,quantized')}, or set model.quantization to none"


def with_sidecar(values: Mapping[str, Any], files: Mapping[str, Callable[[], str]]) -> dict[str, Any]:
    """The values of a config.json, with the method that a file beside it names where config.json names none.

    `files`: by name, how those of SIDECARS that are there are read.
    """
    found = next((name for name in SIDECARS if name in files), None)
    if found is None or stored_quantization(values) is not None:
        return dict(values)
    try:
        stated = json.loads(files[found]())
    except ValueError:
        stated = {}
    method = stated.get("quant_method") if isinstance(stated, Mapping) else None
    return {**values, "quantization_config": {"quant_method": method or SIDECARS[found]}}


def sidecars_in(folder: Path) -> dict[str, Callable[[], str]]:
    """The files of SIDECARS that a folder has, as `with_sidecar` takes them."""
    there = [folder / name for name in SIDECARS if (folder / name).is_file()]
    return {path.name: partial(path.read_text, encoding="utf-8") for path in there}


def held_as(config: ModelConfig, values: Mapping[str, Any]) -> ModelConfig:
    """The settings with the form that the model's files are in, where bitsandbytes quantised them."""
    if config.quantization != "none" or stored_quantization(values) != PACKAGE:
        return config
    stored = values.get("quantization_config") or {}
    double = bool(stored.get("bnb_4bit_use_double_quant"))
    form = (
        {"quantization": "nf4", "double_quantization": double}
        if stored.get("load_in_4bit")
        else {"quantization": "int8"}
    )
    return config.model_copy(update=form)


def stored_quantization(values: Mapping[str, Any]) -> str | None:
    """By which method the weights of a model's files are quantised, as its config.json says; None: they are not."""
    inner = values.get("text_config") or {}
    for found in (
        values.get("quantization_config"),
        values.get("compression_config"),
        inner.get("quantization_config"),
    ):
        if isinstance(found, Mapping):
            old = PACKAGE if found.get("load_in_4bit") or found.get("load_in_8bit") else None
            return str(found.get("quant_method") or old or "a method without a name").replace("_", "-").lower()
    # Of MLX, which writes its own key alone.
    return "mlx" if isinstance(values.get("quantization"), Mapping) else None


def require_known_form(config: ModelConfig, values: Mapping[str, Any]) -> None:
    """Raise BadInputError where a model's files are quantised in a way that nothing here can tune, or twice.

    `values`: its config.json. Files that bitsandbytes quantised are read as they are.
    """
    method = stored_quantization(values)
    if method is None:
        return
    if method != PACKAGE:
        reason = _REASONS.get(method, _REASONS.get(method.replace("-", "_"), "which is not known here"))
        raise BadInputError(
            f"model.name: {config.name} is quantised by {method}, {reason}; "
            "name the model that it was made from, and set model.quantization to nf4 to save memory"
        )
    if config.quantization != "none":
        raise BadInputError(
            f"model.quantization is {config.quantization}, but {config.name} is quantised by {PACKAGE} already; "
            "leave model.quantization out, or name the model that it was made from"
        )


def is_quantized(config: ModelConfig, values: Mapping[str, Any]) -> bool:
    """Whether the base that is loaded holds its weights in 8 or 4 bits; `values`: its config.json."""
    return config.quantization != "none" or stored_quantization(values) is not None


def quantization_options(config: ModelConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `from_pretrained` is told of a quantised base; nothing for one that is not. `values`: its config.json.

    Raises BadInputError where bitsandbytes is not installed, and as `require_known_form`.
    """
    require_known_form(config, values)
    if not is_quantized(config, values):
        return {}
    if not is_installed():
        raise BadInputError(f"{quantized_by(config)} needs {PACKAGE}, which is not installed here; {what_to_do()}")
    return {} if config.quantization == "none" else {"quantization_config": _library_config(config)}


def quantized_by(config: ModelConfig) -> str:
    """Which setting asks for a quantised base."""
    if config.quantization == "none":
        return f"model.name: {config.name}, which is quantised by it,"
    return f"model.quantization {config.quantization}"


def is_installed() -> bool:
    """Whether bitsandbytes is here, held back or not."""
    return PathFinder.find_spec(PACKAGE) is not None


def load_library() -> None:
    """Import bitsandbytes where it is installed, without what it would say of itself and fetch.

    Where the package `kernels` is installed, bitsandbytes downloads a compiled kernel from the hub as it is imported
    and runs it; the kernel is for the packed layout, which is not used here.
    """
    _release()
    if PACKAGE in sys.modules or not is_installed():
        return
    with _without_hub_kernels():
        import bitsandbytes  # noqa: F401


def _release() -> None:
    """Take back that the command holds it back, and let the libraries that have looked for it look again."""
    if sys.modules.get(PACKAGE, sys) is not None:
        return
    del sys.modules[PACKAGE]
    for module, names in _ASKING.items():
        for name in names:
            remembered = getattr(sys.modules.get(module), name, None)
            if remembered is not None:
                remembered.cache_clear()


@contextmanager
def _without_hub_kernels() -> Iterator[None]:
    logger = logging.getLogger("bitsandbytes")
    level, held = logger.level, sys.modules.pop("kernels", None)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if held is not None:
            sys.modules["kernels"] = held


@contextmanager
def weights_read_one_by_one() -> Iterator[None]:
    """transformers reads each weight of a file by itself inside, instead of mapping the whole file.

    A mapped file counts as resident memory: as much of it as was read and, where a weight stays as it is in the file,
    for as long as the model is there. A base in 4 bits would then take more than one in 16.
    """
    from transformers import modeling_utils

    mapping = modeling_utils.safe_open

    def reading(*arguments: Any, **options: Any) -> Any:
        return mapping(*arguments, **{**options, "backend": "pread"})

    modeling_utils.safe_open = reading
    try:
        yield
    finally:
        modeling_utils.safe_open = mapping


def _library_config(config: ModelConfig) -> BitsAndBytesConfig:
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = config.dtype if config.compute_dtype == "auto" else config.compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double_quantization is not False,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def compute_alike(model: torch.nn.Module) -> None:
    """Let every quantised layer compute one function in training and evaluation mode, and never edit its weights."""
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, bnb.nn.Linear8bitLt) and module.weight.device.type == "cpu":
            _hold_in_training_mode(module)


def _hold_in_training_mode(module: torch.nn.Module) -> None:
    """The mode chooses the kernel of an 8-bit layer and nothing else: it has neither dropout nor statistics."""
    module.training = True
    module.train = lambda mode=True: module  # type: ignore[method-assign]
