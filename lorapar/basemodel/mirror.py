"""Copy a base model, whatever its source, to an address that runs without the hub can name: `lorapar models mirror`."""

from __future__ import annotations

from pathlib import Path

from lorapar.basemodel.load import model_folder
from lorapar.basemodel.resolve import resolve_model
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.store import Manifest, is_s3, open_store
from lorapar.store.copy import copy_up

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def parse_name(text: str) -> ModelConfig:
    """The model that `NAME` or `NAME@REVISION` stands for; a folder's name may hold an @ itself."""
    if Path(text).expanduser().is_dir():
        return ModelConfig(name=text)
    name, _, revision = text.partition("@")
    if not name:
        raise BadInputError(f"'{text}': no name of a model; write NAME or NAME@REVISION")
    return ModelConfig(name=name, revision=revision or None)


def mirror_model(model: ModelConfig, address: str, progress: Progress) -> tuple[ModelConfig, Manifest]:
    """Copy the model's files, pickled weights aside, to the address; the manifest there says where they came from.

    Returns the model with its revision settled, and the manifest. Raises BadInputError where another model lies at the
    address, and what getting the model raises.
    """
    if is_s3(model.name):
        raise BadInputError(f"{model.name}: is in a bucket already; copy it with a tool for buckets")
    store = open_store(address)
    try:
        resolved = resolve_model(model)
        folder = model_folder(resolved, progress)
    except ModuleNotFoundError as error:  # models that are made or converted here; those of the hub need no torch
        raise BadInputError(
            f"{model.name}: needs {error.name} to be made here: pip install 'lorapar[train]'"
        ) from error
    kind = f"model {resolved.name}" + (f"@{resolved.revision}" if resolved.revision else "")
    return resolved, copy_up(folder, store, kind, progress, lambda name: not name.endswith(_PICKLED))
