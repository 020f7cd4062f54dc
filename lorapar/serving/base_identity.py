"""Check whether a base model is the one that an adapter was trained on, wherever the two are.

A lineage names its base by a digest. For a folder, and for a bucket that lorapar filled, it is a digest of the files'
names and bytes, so it can be compared with any folder. For a model of the hub the digest stands for a commit; a mirror
or the hub's own cache shows that commit. If the base itself is on this machine, the same tensors in other files count
as the same base, given the same tokenizer and chat template. Otherwise such a base cannot be recognised, and a person
says `--other-base`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lorapar.basemodel.load import model_folder
from lorapar.basemodel.resolve import Kind, kind_of, resolve_model
from lorapar.basemodel.shape import VLLM_ANSWERS_OTHERWISE
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError, LoraparError
from lorapar.records import digest_of, read_json
from lorapar.registry import LINEAGE_FILE, Registry, Version
from lorapar.registry.package import CONFIG_FILE, hub_commit
from lorapar.serving.same_text import TEXT_FILES, read_object, unlike_text
from lorapar.store import NotFoundError, file_sha256, open_store, read_manifest
from lorapar.store.copy import find_tree

ANY = "any"
"""Given in place of a digest: do not compare the base."""
_WRITTEN_BY = ("transformers_version", "_name_or_path")
_PART_BYTES = 1 << 24
REMEDY = "serve the base it was trained on"
SERVED_REMEDY = (
    f"{REMEDY}, or say --other-base if it is meant, such as a quantised copy or the same weights in other files"
)


@dataclass(frozen=True)
class Compared:
    """The result of comparing a folder with a base."""

    found: Literal["same", "other", "unknown"]
    is_there: str = ""
    """What identifies the folder, or why it has no identity."""


def base_of(registry: Registry, version: Version) -> ModelConfig:
    """The base model a version was made for, from its lineage or else its adapter_config.json."""
    try:
        return _base_in(registry.read_json_file(version, LINEAGE_FILE)["base"])
    except NotFoundError:
        config = registry.read_json_file(version, CONFIG_FILE)
        return ModelConfig(name=config["base_model_name_or_path"], revision=config.get("revision"))


def is_on_hub(base: ModelConfig) -> bool:
    """Whether a base is from the hub: a base with a digest but no commit was a folder at training time."""
    return kind_of(base) is Kind.HUB and (base.revision is not None or base.digest is None)


def base_text(base: ModelConfig) -> str:
    """The base's name in messages."""
    revision = f"@{base.revision}" if base.revision else ""
    return f"'{base.name}{revision}'" + (f" (digest {base.digest})" if base.digest else "")


def compare(base: ModelConfig, folder: Path) -> Compared:
    """Compare a folder with the base that a lineage names; reads every byte of the folder."""
    if base.digest is None:
        return Compared("same")  # an adapter made elsewhere has nothing to compare with
    try:
        digests = _digests(folder)
    except IntegrityError as error:  # of a mirror; a run refuses to train on such a folder
        return Compared("other", str(error))
    except LoraparError as error:
        return Compared("unknown", str(error))
    if base.digest in digests:
        return Compared("same", digests[0])
    if kind_of(base) is Kind.BUCKET:
        return _with_bucket(base, folder, digests[0])
    if base.revision is None and kind_of(base) is not Kind.BUILTIN:
        return _with_files(base, folder, digests[0]) if _here(base) else Compared("other", digests[0])
    return _with_commit(base, folder) or _with_files(base, folder, digests[0])


def _digests(folder: Path) -> tuple[str, ...]:
    """Digests of a folder's files, with and without the manifest of a mirror."""
    whole = str(resolve_model(ModelConfig(name=str(folder.expanduser().absolute()))).digest)
    try:
        manifest = read_manifest(folder)
    except IntegrityError:
        return (whole,)
    hidden = (any(part.startswith(".") for part in name.split("/")) for name in manifest.files)
    files = {name: entry.sha256 for (name, entry), skip in zip(manifest.files.items(), hidden, strict=True) if not skip}
    return whole, digest_of(files)


def _with_bucket(base: ModelConfig, folder: Path, found: str) -> Compared:
    """Compare by the manifest of a mirror, and by the content of its text files where their bytes differ.

    The digest of a bucket that another tool filled comes from its listing, which no folder has.
    """
    try:
        tree = find_tree(open_store(base.name))
        if tree.manifest is None:
            return Compared("unknown", f"{base.name} has no manifest; `lorapar models mirror` writes one")
        files = {name: entry.sha256 for name, entry in tree.manifest.files.items()}
        if not _holds(folder, {name: sha256 for name, sha256 in files.items() if _is_weights(name)}):
            return Compared("other", found)
        text = {name: sha256 for name, sha256 in files.items() if name in TEXT_FILES}
        if _holds(folder, text) and not any((folder / name).is_file() for name in TEXT_FILES if name not in text):
            return Compared("same", found)
        with tempfile.TemporaryDirectory() as place:
            tree.store.download_all([one for one in tree.transfers(Path(place)) if one.key in text])
            return _by_text(Path(place), folder, found)
    except LoraparError as error:
        return Compared("unknown", str(error))


def _with_commit(base: ModelConfig, folder: Path) -> Compared | None:
    """Compare by the commit in a mirror's manifest or the hub's own cache; None where neither names one."""
    wanted, found = f"{base.name}@{base.revision}", ""
    try:
        kind = read_manifest(folder).kind
        found = kind.removeprefix("model ") if kind.startswith("model ") else ""
    except IntegrityError:
        place = folder.resolve()
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            found = f"{place.parent.parent.name.removeprefix('models--').replace('--', '/')}@{place.name}"
    if "@" not in found and found != base.name:
        return None
    return Compared("same" if found in (wanted, base.name) else "other", found)


def _with_files(base: ModelConfig, folder: Path, found: str) -> Compared:
    """Compare with the files of the base itself, if they are on this machine."""
    own = _here(base)
    if own is None:
        return Compared("unknown", f"{base.name} is not on this machine to compare it with")
    wanted = {path.name: file_sha256(path) for path in own.glob("*") if path.is_file() and _is_weights(path.name)}
    if not _holds(folder, wanted) and not same_weights(folder, own):
        return Compared("other", found)
    return _by_text(own, folder, found)


def _by_text(own: Path, folder: Path, found: str) -> Compared:
    """Whether two folders with the same weights also have the same tokenizer and template."""
    try:
        unlike = unlike_text(own, folder)
    except (OSError, LoraparError) as error:
        return Compared("unknown", str(error))
    return Compared("other", f"{found}; {unlike}") if unlike else Compared("same", found)


def same_weights(left: Path, right: Path) -> bool:
    """Whether two model folders hold the same tensors and settings, in any number of files."""
    sides = [tuple(sorted(folder.glob("*.safetensors"))) for folder in (left, right)]
    try:
        if _settings(left) != _settings(right) or _headers(sides[0]) != _headers(sides[1]):
            return False
        return _tensors(sides[0]) == _tensors(sides[1])
    except (OSError, ValueError, KeyError, BadInputError):
        return False


def _settings(folder: Path) -> dict[str, Any]:
    """config.json without the keys that only name the program that wrote it."""
    return {key: value for key, value in read_object(folder / "config.json").items() if key not in _WRITTEN_BY}


def _headers(files: tuple[Path, ...]) -> dict[str, Any]:
    """(dtype, shape) of each tensor: cheap to read, and mostly enough to distinguish two models."""
    return {name: (one["dtype"], one["shape"]) for file in files for name, one in _header(file)[0].items()}


def _tensors(files: tuple[Path, ...]) -> dict[str, str]:
    """sha256 of each tensor's bytes."""
    found = {}
    for file in files:
        header, start = _header(file)
        with file.open("rb") as opened:
            for name, one in header.items():
                first, last = one["data_offsets"]
                opened.seek(start + first)
                found[name] = _sha256(opened, last - first)
    return found


def _sha256(opened: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    while size_bytes:
        part = opened.read(min(size_bytes, _PART_BYTES))
        if not part:
            raise ValueError("the file ends within a tensor")
        digest.update(part)
        size_bytes -= len(part)
    return digest.hexdigest()


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the tensors' bytes begin (huggingface/safetensors, "Format")."""
    with file.open("rb") as opened:
        size_bytes = int.from_bytes(opened.read(8), "little")
        if size_bytes > file.stat().st_size:
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(opened.read(size_bytes))
    header.pop("__metadata__", None)
    return header, 8 + size_bytes


def _is_weights(name: str) -> bool:
    """Whether a file affects what the model computes; a README does not."""
    return name == "config.json" or name.endswith(".safetensors")


def _holds(folder: Path, wanted: dict[str, str]) -> bool:
    return all((folder / name).is_file() and file_sha256(folder / name) == sha256 for name, sha256 in wanted.items())


def _here(base: ModelConfig) -> Path | None:
    """The folder of the base on this machine, unchanged since training; downloads nothing."""
    from lorapar.basemodel.hub import cached_snapshot

    try:
        if kind_of(base) is Kind.BUILTIN:
            return model_folder(base)
        if kind_of(base) is Kind.LOCAL:
            return Path(base.name) if base.digest in _digests(Path(base.name)) else None
        return cached_snapshot(base) if is_on_hub(base) else None
    except (LoraparError, ModuleNotFoundError):
        return None


def require_same(version: object, base: ModelConfig, folder: Path, remedy: str = SERVED_REMEDY) -> str:
    """Raise IntegrityError where a folder is not a version's base; returns why that is unknown, or ''."""
    compared = compare(base, folder)
    if compared.found == "other":
        raise IntegrityError(
            f"{version}: was trained on the base model {base_text(base)}, and the folder '{folder}' holds another "
            f"model ({compared.is_there}); {remedy}"
        )
    return compared.is_there if compared.found == "unknown" else ""


def refuse_unequal_answers(folder: Path) -> None:
    """Raise BadInputError for a base with whose adapters vLLM gives other answers than PEFT."""
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except LoraparError:
        return  # vLLM itself says what is wrong with the folder
    if kind in VLLM_ANSWERS_OTHERWISE:
        raise BadInputError(
            f"'{folder}': vLLM gives other answers with adapters of {kind} than PEFT; serve a merged model instead "
            "(lorapar export NAME@ALIAS --merged DIR)"
        )


def refuse_unequal_answers_of_hub(name: str, revision: str | None) -> None:
    """Like `refuse_unequal_answers`, for a hub model whose settings are in the local cache; downloads nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return  # no name of the hub
    if isinstance(found, str):
        refuse_unequal_answers(Path(found).parent)


def cached_folder_of_hub(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub model in this machine's cache, named by its commit; downloads nothing."""
    from huggingface_hub.utils import validate_repo_id

    from lorapar.basemodel.hub import cached_snapshot

    try:
        validate_repo_id(name)
    except ValueError:  # HFValidationError is one: a path of another machine, say
        return None
    return cached_snapshot(ModelConfig(name=name, revision=revision))


class ServedBase:
    """What a running server knows about its base model: its name, and its identity if known."""

    def __init__(self, name: str = "", digest: str = "", model: str = "", revision: str | None = None) -> None:
        """From vLLM's `--model` and `--revision`; `digest` is the identity that was compared before, or `ANY`."""
        self.name = name
        self._digest = digest
        self._model = Path(model) if model and Path(model).is_dir() else None
        self._hub = model if self._model is None else ""
        self._revision = revision
        self._lock = threading.Lock()
        self._compared: dict[str, Compared] = {}

    def refuse_other(self, version: str, folder: Path) -> None:
        """Refuse a downloaded version of another base.

        Raises IntegrityError where its lineage names another identity than the server's, and BadInputError like
        `refuse_unequal_answers`.
        """
        if self._model is not None:
            refuse_unequal_answers(self._model)
        elif self._hub:  # vLLM has downloaded it by now
            refuse_unequal_answers_of_hub(self._hub, hub_commit(self._revision))
        base = _lineage_base(folder)
        if base is None or base.digest is None or self._digest == ANY:
            return
        if self._digest:
            found = Compared("same" if base.digest == self._digest else "other", f"digest {self._digest}")
        elif self._model is not None:
            found = self._compare(base, self._model)
        else:
            found = self._compare_with_hub(base)
        if found.found == "other":
            raise IntegrityError(
                f"{version}: was trained on the base model {base_text(base)}, and this server has another one "
                f"({found.is_there}); {REMEDY}, or set LORAPAR_SERVING_BASE_DIGEST={ANY} if it is meant"
            )

    def _compare_with_hub(self, base: ModelConfig) -> Compared:
        """Compare with the commit that vLLM was given, or that it has downloaded for its branch by now."""
        commit, folder = hub_commit(self._revision), None
        if self._hub and commit is None:
            folder = cached_folder_of_hub(self._hub, self._revision)
            commit = folder.name if folder else None
        if commit is None:
            return Compared("unknown")
        if is_on_hub(base) and base.revision is not None:
            return Compared("same" if base.revision == commit else "other", f"revision {commit}")
        return self._compare(base, folder) if folder else Compared("unknown")

    def _compare(self, base: ModelConfig, folder: Path) -> Compared:
        """Reads every byte of a folder once for each base that versions name, mostly one."""
        with self._lock:
            known = f"{base.name}@{base.revision}/{base.digest}"
            if known not in self._compared:
                self._compared[known] = compare(base, folder)
            return self._compared[known]


def _lineage_base(folder: Path) -> ModelConfig | None:
    path = folder / LINEAGE_FILE
    facts = read_json(path).get("base") if path.is_file() else None
    return _base_in(facts) if facts and facts.get("name") else None


def _base_in(facts: dict[str, Any]) -> ModelConfig:
    return ModelConfig(name=facts["name"], revision=facts.get("revision"), digest=facts.get("digest"))
