"""An adapter on disk: an ordinary PEFT folder plus `lorapar_adapter.json`.

adapter_config.json         plain LoRA, no init marks: any PEFT or serving engine loads it; other kinds: any PEFT
adapter_model.safetensors   the LoRA matrices, or what another kind has
lorapar_adapter.json        trainable rank, init and kind; needed to score or to train on, not to use the adapter
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorapar.adapter.attach import refuse_second_adapter, wrap
from lorapar.adapter.files import read_tensors, write_tensors
from lorapar.adapter.kinds import kind_of, number_prompts
from lorapar.adapter.names import DEFAULT_ADAPTER, adapter_parameters
from lorapar.adapter.settings import AdapterMark, adapter_mark, set_mark
from lorapar.errors import BadInputError, StorageError
from lorapar.records import read_json

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MARK_FILE = "lorapar_adapter.json"


def save_adapter(model: PeftModel, folder: str | Path, *, adapter_name: str = DEFAULT_ADAPTER) -> None:
    """Write one adapter as a PEFT folder with its mark; the same adapter gives the same bytes.

    Raises:
        BadInputError: the adapter has no mark (it came from neither attach nor load_adapter).
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    mark = adapter_mark(model)
    tensors = {name: p.detach() for name, p in adapter_parameters(model, adapter_name).items()}
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
    _write_json(folder / CONFIG_FILE, _published_config(model, adapter_name))
    mark_json = {"format": 1, "rank": mark.rank, "init": mark.init}
    _write_json(folder / MARK_FILE, mark_json if mark.kind == "lora" else {**mark_json, "kind": mark.kind})


def load_adapter(base_model: torch.nn.Module, folder: str | Path, *, trainable: bool) -> PeftModel:
    """Wrap a base model with the adapter of a PEFT folder, bit for bit as it was saved.

    Args:
        base_model: the unmodified base model.
        folder: a folder with adapter_config.json and adapter_model.safetensors. Where `lorapar_adapter.json` is
            missing (an adapter made elsewhere), the whole LoRA rank counts as trainable.
        trainable: False freezes every tensor, and training such a model is refused (`assert_trainable`).

    Raises:
        BadInputError: the folder is no PEFT folder of a known kind, its tensors do not fit the base model, or the model
            already carries an adapter.
    """
    folder = Path(folder)
    refuse_second_adapter(base_model)
    config = _read_config(folder)
    config.inference_mode = not trainable
    tensors, _ = read_tensors(folder / WEIGHTS_FILE)
    model = _wrap_named_by_folder(base_model, config, folder)
    _copy_in(model, tensors, folder)
    number_prompts(model)
    set_mark(model, _read_mark(folder, config, trainable=trainable))
    return model


def copy_adapter(source: Path, target: Path) -> None:
    """The adapter alone, byte for byte, without what a stage wrote beside it."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, MARK_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def rank_in(folder: Path) -> int:
    """The rank of the adapter in a PEFT folder."""
    return int(read_json(folder / CONFIG_FILE)["r"])


def add_changes(start: Path, one: Path, other: Path, target: Path) -> None:
    """Write `start` with what training changed in `one` and in `other`, two adapters that both began with it.

    An element that only one of them changed has that one's value bit for bit, one that both changed the sum of the two
    changes.
    """
    begun, first, second = (read_tensors(folder / WEIGHTS_FILE)[0] for folder in (start, one, other))
    joined = {}
    for name, before in begun.items():
        both = first[name] + (second[name] - before)
        joined[name] = torch.where(
            second[name] == before, first[name], torch.where(first[name] == before, second[name], both)
        )
    copy_adapter(one, target)
    write_tensors(target / WEIGHTS_FILE, joined, {"format": "pt"})


def _wrap_named_by_folder(base_model: torch.nn.Module, config: PeftConfig, folder: Path) -> PeftModel:
    name, config.base_model_name_or_path = config.base_model_name_or_path, None
    try:
        return wrap(base_model, config, base_model_name=name)
    except ValueError as error:
        raise BadInputError(f"the adapter in {folder} does not fit {type(base_model).__name__}: {error}") from error


@torch.no_grad()
def _copy_in(model: PeftModel, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    # PEFT's loader only warns about absent tensors and leaves them random; here they are an error.
    parameters = adapter_parameters(model)
    differing = sorted(set(parameters) ^ set(tensors))
    if differing:
        where = "the model lacks" if differing[0] in tensors else "the file lacks"
        raise BadInputError(
            f"the adapter in {folder} does not fit {type(model.get_base_model()).__name__}: {where} '{differing[0]}' "
            f"({len(differing)} such tensors): load it on the base model it was trained for"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise BadInputError(
                f"the adapter in {folder} does not fit: '{name}' is {tuple(tensors[name].shape)} in the file and "
                f"{tuple(parameter.shape)} in the model: load it on the base model it was trained for"
            )
        parameter.data = tensors[name].to(parameter.device)


def _read_config(folder: Path) -> PeftConfig:
    from peft import LoraConfig, PeftConfig

    if not (folder / CONFIG_FILE).is_file():
        raise BadInputError(f"{folder} is not an adapter folder: it has no {CONFIG_FILE}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInputError(f"cannot read {folder / CONFIG_FILE}: {error}") from error
    try:
        kind_of(config)
    except BadInputError as error:
        raise BadInputError(f"{folder}: {error}") from None
    if isinstance(config, LoraConfig):
        # PEFT would start from the named init and edit the base weights, only to have A and B replaced.
        config.init_lora_weights = True
    return config


def _read_mark(folder: Path, config: PeftConfig, *, trainable: bool) -> AdapterMark:
    path, kind = folder / MARK_FILE, kind_of(config)
    if not path.is_file():
        return AdapterMark(rank=getattr(config, "r", 1), init="unknown", kind=kind, trainable=trainable)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return AdapterMark(int(content["rank"]), str(content["init"]), kind=kind, trainable=trainable)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"cannot read {path}: {error!r}; save the adapter again") from error


def _published_config(model: PeftModel, adapter_name: str) -> dict[str, Any]:
    config = copy.deepcopy(model.peft_config[adapter_name])
    config.inference_mode = True
    published = config.to_dict()
    # PEFT holds sets; sorted lists give the same bytes on every run.
    return {key: sorted(value) if isinstance(value, set) else value for key, value in published.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; free some space or choose another folder") from error
