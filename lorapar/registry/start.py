"""The adapter that a run goes on from (`model.adapter`): which one it is, what it is, and its files.

It is in the registry, in a folder, in a bucket, or on the hub. `plan` settles which, once for the run; `init` brings
it here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorapar.basemodel.resolve import Kind as BaseKind
from lorapar.basemodel.resolve import kind_of as base_kind_of
from lorapar.config import ModelConfig
from lorapar.config.model import AdapterSource
from lorapar.errors import BadInputError, IntegrityError, LoraparError
from lorapar.records import digest_of
from lorapar.registry.lineage import LINEAGE_FILE
from lorapar.registry.package import CONFIG_FILE, WEIGHTS_FILE
from lorapar.registry.reference import parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Version
from lorapar.store import NotFoundError, file_sha256, is_s3, open_store
from lorapar.store.copy import RemoteTree, copy_down, find_tree

MARK_FILE = "lorapar_adapter.json"
FILES = (CONFIG_FILE, WEIGHTS_FILE, LINEAGE_FILE, MARK_FILE)
"""What is read of an adapter; the last two are only there where lorapar made it."""
_TEMPLATE, _TOKENIZER = "chat_template.jinja", "tokenizer_config.json"
"""Where a chat template may lie beside an adapter."""
_PATH_STARTS = (".", "~", "/")
# What makes a LoRA more than A, B and a scale on linear modules.
_NOT_PLAIN = (
    *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "alora_invocation_tokens", "velora_config"),
    "monteclora_config",
)
# These starts move the base weights, so A and B alone are not the adapter.
_EDITS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Kind(Enum):
    """Where the adapter lies."""

    FOLDER = "folder"
    BUCKET = "bucket"
    HUB = "hub"
    REGISTRY = "registry"


@dataclass(frozen=True)
class Start:
    """What is known of the adapter before its weights are read."""

    config: Mapping[str, Any]
    """Its adapter_config.json."""
    lineage: Mapping[str, Any] | None
    """Its lineage.json; None where it was not made by lorapar."""

    @property
    def rank(self) -> int:
        """Its LoRA rank: the largest one where modules differ."""
        return max([int(self.config["r"]), *map(int, (self.config.get("rank_pattern") or {}).values())])


def kind_of(adapter: str) -> Kind:
    """Where the adapter lies, by what the setting says; a folder that is there wins over a name.

    A folder without an adapter in it may bear the name of one in the registry.
    """
    if is_s3(adapter):
        return Kind.BUCKET
    nested = "/" in adapter and Path(adapter).is_dir()
    if adapter.startswith(_PATH_STARTS) or nested or (Path(adapter) / CONFIG_FILE).is_file():
        return Kind.FOLDER
    return Kind.HUB if "/" in adapter else Kind.REGISTRY


def resolve_start(model: ModelConfig, registry: str | None) -> ModelConfig:
    """The settings with `adapter_source` filled in: version or commit, digest and rank, as they are now.

    What an earlier plan pinned (`adapter_source.version`, `.revision`) is kept. Raises BadInputError for what is not
    there or is no plain LoRA, IntegrityError where its content is not the pinned one or it was made for another base
    model, and UnreachableError.
    """
    if model.adapter is None:
        return model
    found, start = _found(model, registry)
    if model.adapter_source and model.adapter_source.digest not in (None, found.digest):
        raise IntegrityError(
            f"model.adapter: {model.adapter_text} has another content than these settings name "
            f"({found.digest}, not {model.adapter_source.digest}); leave out model.adapter_source to take it as it is"
        )
    _require_plain(model.model_copy(update={"adapter_source": found}), start.config)
    resolved = model.model_copy(update={"adapter_source": found.model_copy(update={"rank": start.rank})})
    _require_base(resolved, start)
    return resolved


def read_start(model: ModelConfig) -> Start:
    """What is known of a resolved adapter: its configuration, and its lineage."""
    return _found(model, None)[1]


def fetch_start(model: ModelConfig, folder: Path) -> Path:
    """The files of a resolved adapter: `folder`, which is made, or where they lie; raises as `resolve_start`."""
    source = _source(model)
    kind = kind_of(str(model.adapter))
    if kind is Kind.FOLDER:
        place = _folder(str(model.adapter))
        if _folder_digest(place) != source.digest:
            raise IntegrityError(f"model.adapter: {place} has changed since the run was planned; run it again")
        return place
    if kind is Kind.BUCKET:
        tree = _tree(str(model.adapter))
        if tree.digest != source.digest:
            raise IntegrityError(f"model.adapter: {model.adapter} has changed since the run was planned; run it again")
        copy_down(tree, folder)
        return folder
    if kind is Kind.HUB:
        from lorapar.basemodel import hub

        files = (*FILES, _TEMPLATE, _TOKENIZER)
        return hub.adapter_snapshot(_hub_name(str(model.adapter))[0], str(source.revision), files)
    registry, version = _registered(model, source.registry)
    pulled = registry.pull(str(version), folder)
    if pulled.digest != source.digest:
        raise IntegrityError(
            f"model.adapter: {pulled} in {registry.address} is not the content that the run was planned with "
            f"({pulled.digest}, not {source.digest}); run it again"
        )
    return folder


def trained_rank(folder: Path, rank: int) -> int:
    """How many of an adapter's rows and columns were trained when it was made; all of them where nothing says.

    All of one that was packed into a smaller rank, too: its rows are no longer those that were trained.
    """
    lineage, mark = (_document(folder / file) for file in (LINEAGE_FILE, MARK_FILE))
    if lineage.get("compacted"):
        return rank
    settings = lineage.get("settings", {})
    for found in (mark.get("rank"), (lineage.get("parent") or {}).get("trained_rank")):
        if isinstance(found, int):
            return min(found, rank)
    return min(int(settings.get("adapter", {}).get("rank", rank)), rank)


def _document(file: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def require_same_weights(model: ModelConfig, folder: Path, digest: str) -> None:
    """Raise IntegrityError where an adapter was trained on other base weights in the number format of this run.

    In another format, or without a lineage, nothing can be compared.
    """
    start = start_in(folder, str(model.adapter))
    lineage, base = start.lineage or {}, base_of(start)
    trained_on = lineage.get("training", {}).get("base_weights_sha256")
    if base is not None and trained_on and lineage["base"].get("dtype") == model.dtype and trained_on != digest:
        raise other_base(model, base)


def _found(model: ModelConfig, registry: str | None) -> tuple[AdapterSource, Start]:
    adapter = str(model.adapter)
    kind = kind_of(adapter)
    if kind is Kind.FOLDER:
        folder = _folder(adapter)
        return AdapterSource(digest=_folder_digest(folder)), start_in(folder, adapter)
    if kind is Kind.BUCKET:
        tree = _tree(adapter)
        return AdapterSource(digest=tree.digest), _start_at(tree, adapter)
    if kind is Kind.HUB:
        from lorapar.basemodel import hub

        name, revision = _hub_name(adapter)
        pinned = model.adapter_source.revision if model.adapter_source else None
        commit = pinned or hub.adapter_commit(name, revision)
        folder = hub.adapter_snapshot(name, commit, (CONFIG_FILE, LINEAGE_FILE))
        digest = digest_of({"name": name, "commit": commit})
        return AdapterSource(revision=commit, digest=digest), start_in(folder, adapter)
    opened, version = _registered(model, registry)
    source = AdapterSource(registry=opened.address, version=version.number, digest=version.digest)
    return source, _start_of(opened, version)


def _registered(model: ModelConfig, registry: str | None) -> tuple[Registry, Version]:
    """The version, by the number that was pinned before where one was."""
    source = model.adapter_source or AdapterSource()
    address = source.registry or registry
    if address is None and Path(str(model.adapter)).is_dir():
        _folder(str(model.adapter))
    if address is None:
        raise BadInputError(
            f"model.adapter: {model.adapter} is a name in a registry, and registry.address is not set; "
            "give it, or name a folder or OWNER/NAME of the hub"
        )
    try:
        asked = parse_reference(str(model.adapter))
        opened = Registry(open_store(address))
        return opened, opened.resolve(f"{asked.name}@{source.version}" if source.version else str(asked))
    except LoraparError as error:
        beside = _not_peft(Path(str(model.adapter))) if Path(str(model.adapter)).is_dir() else None
        folder = f"; the folder {model.adapter} {beside}" if beside else ""
        raise type(error)(f"model.adapter: {error}{folder}") from None


def _tree(address: str) -> RemoteTree:
    """The files at an address; raises BadInputError where they are no adapter."""
    try:
        tree = find_tree(open_store(address))
    except NotFoundError:
        raise BadInputError(f"model.adapter: there is nothing at {address}; fix the address") from None
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if file not in tree.names:
            raise BadInputError(f"model.adapter: {address} has no {file}, so it is not a PEFT folder; name one")
    return tree


def _start_at(tree: RemoteTree, address: str) -> Start:
    with TemporaryDirectory() as folder:
        for file in (CONFIG_FILE, LINEAGE_FILE):
            if file in tree.names:
                (Path(folder) / file).write_bytes(tree.store.read(file))
        return start_in(Path(folder), address)


def _start_of(registry: Registry, version: Version) -> Start:
    try:
        lineage = registry.read_json_file(version, LINEAGE_FILE)
    except NotFoundError:
        lineage = None
    return Start(registry.read_json_file(version, CONFIG_FILE), lineage)


def start_in(folder: Path, adapter: str) -> Start:
    """What a folder's files say of its adapter, which messages call `adapter`; raises BadInputError."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        lineage = folder / LINEAGE_FILE
        document = json.loads(lineage.read_text(encoding="utf-8")) if lineage.is_file() else None
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"model.adapter: {adapter}: {CONFIG_FILE} or {LINEAGE_FILE} cannot be read: {error}"
        ) from None
    return Start(config, document)


def _folder(adapter: str) -> Path:
    folder = Path(adapter).expanduser()
    missing = _not_peft(folder)
    if missing is not None:
        raise BadInputError(
            f"model.adapter: {adapter} {missing}; name a folder that PEFT or lorapar wrote (adapters in "
            "safetensors), NAME@VERSION of the registry, or OWNER/NAME of the hub"
        )
    return folder


def _not_peft(folder: Path) -> str | None:
    """Why a folder holds no adapter, and where below it adapters lie; None where it does hold one."""
    if not folder.is_dir():
        return "is not a folder"
    missing = next((file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()), None)
    if missing is None:
        return None
    inside = (path.parent for depth in range(1, 5) for path in sorted(folder.glob("*/" * depth + CONFIG_FILE)))
    below = [str(path) for path in inside if (path / WEIGHTS_FILE).is_file()]
    return f"has no {missing}, so it is not a PEFT folder" + (f" (but {below[0]} is)" if below else "")


def _folder_digest(folder: Path) -> str:
    return digest_of({file: file_sha256(folder / file) for file in FILES if (folder / file).is_file()})


def _hub_name(adapter: str) -> tuple[str, str | None]:
    name, _, revision = adapter.partition("@")
    return name, revision or None


def _source(model: ModelConfig) -> AdapterSource:
    if model.adapter_source is None or model.adapter_source.digest is None:
        raise AssertionError("the adapter to go on from was not resolved before it was fetched")
    return model.adapter_source


def _require_plain(model: ModelConfig, config: Mapping[str, Any]) -> None:
    special = [key for key in _NOT_PLAIN if config.get(key)]
    if config.get("bias", "none") != "none":
        special.append(f"bias {config['bias']}")
    if str(config.get("init_lora_weights")).startswith(_EDITS_BASE):
        special.append(f"init_lora_weights {config['init_lora_weights']} (which moves the base weights)")
    if config.get("peft_type") != "LORA" or special:
        what = ", ".join(special) or f"the type {config.get('peft_type')}"
        raise BadInputError(
            f"model.adapter: {model.adapter_text} has {what} in its {CONFIG_FILE}; a run goes on from a plain LoRA only"
        )
    if not (isinstance(config.get("r"), int) and isinstance(config.get("lora_alpha"), int | float)):
        raise BadInputError(f"model.adapter: {model.adapter_text}: its {CONFIG_FILE} lacks r or lora_alpha")
    if not config["lora_alpha"]:
        raise BadInputError(
            f"model.adapter: {model.adapter_text} has lora_alpha 0 in its {CONFIG_FILE}, so it does nothing, and what "
            "is trained further would do nothing either; leave it out, or mend its lora_alpha"
        )


def _require_base(model: ModelConfig, start: Start) -> None:
    """Raise IntegrityError where the digests alone tell that the adapter was made for another base model.

    Two commits of the hub do, and two built-in models. `plan` compares folders, and `init` whatever is left.
    """
    base = base_of(start)
    if base is None or base.digest == model.digest:
        return
    kinds = {base_kind_of(base), base_kind_of(model)}
    if kinds == {BaseKind.HUB} or BaseKind.BUILTIN in kinds:
        raise other_base(model, base)


def base_of(start: Start) -> ModelConfig | None:
    """The base model that a lineage names, with its digest; None where nothing does."""
    recorded = (start.lineage or {}).get("base", {})
    if not recorded.get("digest"):
        return None
    return ModelConfig(name=recorded["name"], revision=recorded.get("revision"), digest=recorded["digest"])


def unknown_base(model: ModelConfig, start: Start) -> str | None:
    """What a person should know where only the name in adapter_config.json says which base an adapter is for."""
    named = start.config.get("base_model_name_or_path")
    if start.lineage is not None or named in (None, model.name):
        return None
    return (
        f"{model.adapter_text} says it was made for {named}; whether {model.name} is the same model is unknown; "
        "only its sizes are known to fit"
    )


def other_template(model: ModelConfig, folder: Path, asked_by: str) -> str | None:
    """What a person should know where an adapter was trained in the words of another chat template than this run's.

    `folder` has the adapter's files, `asked_by` is the template that this run uses. None where both are the same, or
    where nothing says which one the adapter's was.
    """
    own = template_in(folder)
    ours = (folder / LINEAGE_FILE).is_file()
    changed = model.chat_template is not None or bool(model.chat_template_kwargs)
    if own is not None and own.strip() not in asked_by:
        whose = "comes with a chat template of its own"
    elif own is None and ours and changed:
        whose = "was trained with the base model's own chat template"
    else:
        return None
    return (
        f"{model.adapter_text} {whose}, and this run asks with another one (model.chat_template): its "
        "prompts will differ from those it has learned"
    )


def template_in(folder: Path) -> str | None:
    """The chat template beside an adapter; None where there is none, or one of several by name.

    A text without a brace is no template, and settings would take it for a file of this machine.
    """
    found: Any = None
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8")).get("chat_template")
    with suppress(OSError, ValueError):
        found = (folder / _TEMPLATE).read_text(encoding="utf-8")
    return found if isinstance(found, str) and "{" in found else None


def other_base(model: ModelConfig, base: ModelConfig) -> IntegrityError:
    """What refuses an adapter of another base model."""
    at, own = (f" at {one.revision}" if one.revision else "" for one in (base, model))
    return IntegrityError(
        f"model.adapter: {model.adapter_text} was made for the base model {base.name}{at}, which is not "
        f"{model.name}{own}; give that one as model.name, or go on from another adapter"
    )
