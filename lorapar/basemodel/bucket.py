"""Models in a bucket: reading one (`model.name: s3://bucket/prefix`), and copying one there (`lorapar models mirror`).

A model in a bucket is a folder as save_pretrained writes it; one that another tool has put there works too.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from lorapar.basemodel.cache import cache_root, cached_folder
from lorapar.basemodel.quantized import SIDECARS, with_sidecar
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.extras import pip_install
from lorapar.progress import Progress
from lorapar.store import Manifest, NotFoundError, ObjectStore, is_s3, open_store, storage_errors
from lorapar.store.copy import RemoteTree, copy_down, copy_up, find_tree
from lorapar.store.file_system import locked

_TEXT_ENDINGS = (".json", ".jinja", ".model", ".txt", ".py")


def bucket_digest(config: ModelConfig) -> str:
    """Identity of the model at the address now; for one that has a manifest, that of the same files in a folder."""
    return _tree(config).digest


def bucket_folder(config: ModelConfig, progress: Progress) -> Path:
    """The model's files in the cache under their digest; an interrupted download goes on where it stopped.

    Raises IntegrityError where the address holds other bytes than the run was planned with.
    """
    digest = str(config.digest)
    final = cache_root() / "models" / f"s3-{digest[:24]}"
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        with locked(final.with_name(f".{final.name}.one.lock")):
            if not final.is_dir():
                tree = _tree(config)
                if tree.digest != digest:
                    raise IntegrityError(
                        f"model.name: {config.name} has changed since the run was planned; run it again"
                    )
                progress.log(f"downloading {config.name}")
                copy_down(tree, final, progress)
    return final


def text_folder(config: ModelConfig) -> Path:
    """A folder of the cache with the model's tokenizer and settings; the weights are not fetched.

    Raises IntegrityError where the address holds other bytes than the run was planned with.
    """
    digest = str(config.digest)
    whole = cache_root() / "models" / f"s3-{digest[:24]}"
    if whole.is_dir():
        return whole

    def fetch(folder: Path) -> None:
        tree = _tree(config)
        if tree.digest != digest:
            raise IntegrityError(f"model.name: {config.name} has changed since the run was planned; run it again")
        store = open_store(config.name)
        for name in tree.names:
            if "/" not in name and name.endswith(_TEXT_ENDINGS):
                (folder / name).write_bytes(store.read(name))

    return cached_folder(f"s3-{digest[:24]}-text", fetch)


def bucket_config(config: ModelConfig) -> dict[str, Any]:
    """The model's config.json, read alone; of a model whose content is settled once a process."""
    read = _config_at if config.digest is None else _settled_config_at
    return deepcopy(read(config.name, config.digest))


def _config_at(address: str, digest: str | None) -> dict[str, Any]:
    """config.json as it is at the address now, whatever the digest of what it was."""
    store = open_store(address)
    there = {info.key for info in store.list("")} & set(SIDECARS)
    sidecars = {name: partial(_text_of, store, name) for name in there}
    return with_sidecar(json.loads(store.read("config.json")), sidecars)


_settled_config_at = cache(_config_at)


def _text_of(store: ObjectStore, name: str) -> str:
    return store.read(name).decode("utf-8", errors="replace")


def _tree(config: ModelConfig) -> RemoteTree:
    if config.revision is not None:
        raise BadInputError(
            f"model.revision: {config.name} is not a hub model, so it has no revision '{config.revision}'; leave it out"
        )
    try:
        tree = find_tree(open_store(config.name))
    except NotFoundError:
        raise BadInputError(
            f"model.name: there is nothing at {config.name}; fill it with `lorapar models mirror`"
        ) from None
    if "config.json" not in tree.names:
        raise BadInputError(f"model.name: {config.name} has no config.json, so it is not a model folder")
    if not any(name.endswith(".safetensors") for name in tree.names):
        raise BadInputError(
            f"model.name: {config.name} holds no .safetensors weights (pickled checkpoints are not read)"
        )
    return tree


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

    Returns the model with its revision settled, and the manifest. Raises BadInputError where another model is at the
    address, and what getting the model raises.
    """
    from lorapar.basemodel.load import model_folder
    from lorapar.basemodel.resolve import resolve_model

    if is_s3(model.name):
        raise BadInputError(f"{model.name}: is in a bucket already; copy it with a tool for buckets")
    store = open_store(address)
    try:
        resolved = resolve_model(model)
        folder = model_folder(resolved, progress)
    except ModuleNotFoundError as error:  # models that are made or converted here; those of the hub need no torch
        raise BadInputError(f"{model.name}: needs {error.name} to be made here: {pip_install('train')}") from error
    kind = f"model {resolved.name}" + (f"@{resolved.revision}" if resolved.revision else "")
    return resolved, copy_up(folder, store, kind, progress, lambda name: not name.endswith(_PICKLED))
