"""The exact command that serves adapters of a registry with vLLM, worked out from what their aliases name now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorapar.basemodel import model_folder
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry import CANDIDATE, LINEAGE_FILE, Reference, Registry, Version, max_lora_rank
from lorapar.registry.package import CONFIG_FILE
from lorapar.serving.asking import candidate_notes, ending_notes, template_arguments
from lorapar.serving.settings import ServingSettings
from lorapar.store import NotFoundError

MIDDLEWARE = "lorapar.serving.middleware.AdapterMiddleware"
# Not `vllm serve`: that one asks for the version of a package named vllm, which the CPU build is not.
_PROGRAM = ("python", "-m", "vllm.entrypoints.openai.api_server")


@dataclass(frozen=True)
class ServerCommand:
    """A vLLM server: what its environment needs besides what is there, and its arguments from `python` on."""

    environment: dict[str, str]
    arguments: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was left out, and why, and what else a person should know."""

    def __str__(self) -> str:
        """As a person types it into a shell: variables first, one option a line."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        words = [" ".join(_PROGRAM)]
        for argument in self.arguments[len(_PROGRAM) :]:
            if argument.startswith("--") or len(words) == 1:
                words.append(shlex.quote(argument))
            else:
                words[-1] += f" {shlex.quote(argument)}"
        return " \\\n  ".join([*variables, *words])


@dataclass(frozen=True)
class _Base:
    """A base model as the server's arguments name it, and as the adapters' files do."""

    public: str
    arguments: tuple[str, ...]
    renamed: bool = True
    """Whether vLLM's --model is not the public name."""


def server_command(
    registry: Registry, names: Sequence[str], *, model: Path | None = None, extra: Sequence[str] = ()
) -> ServerCommand:
    """The server for some adapters of one base model.

    Args:
        names: NAME for what `production` names, NAME@ALIAS for another alias.
        model: a local copy of the base model, where the server should not fetch it.
        extra: further arguments of vLLM; they come last, and so win over those worked out here.

    Raises BadInputError for a name that is no alias of the registry, adapters of different base models, and ranks that
    vLLM does not serve.
    """
    _refuse_versions(names)
    settings = ServingSettings(registry=registry.address, adapters=",".join(names))
    versions = [registry.resolve(str(reference)) for reference in settings.references]
    base = _base(registry, versions, model)
    settings = settings.model_copy(update={"base_model": base.public if base.renamed else ""})
    waiting, notes = _candidates(registry, settings.names)
    lora = _lora_arguments(registry, settings, [*versions, *waiting])
    return ServerCommand(
        {**settings.environment(), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
        (
            *_PROGRAM,
            *base.arguments,
            *lora,
            *template_arguments(registry, versions),
            "--middleware",
            MIDDLEWARE,
            *extra,
        ),
        (*notes, *candidate_notes(registry, versions[0], waiting), *ending_notes(registry, versions)),
    )


def _refuse_versions(names: Sequence[str]) -> None:
    for given in names:
        name, _, rest = given.partition("@")
        if rest.isdigit():
            raise BadInputError(
                f"{given} is a version; name an alias to follow, such as {name} (production) or {name}@{CANDIDATE}; a "
                "client may ask for versions anyway"
            )


def _lora_arguments(registry: Registry, settings: ServingSettings, versions: Sequence[Version]) -> tuple[str, ...]:
    """Room for every alias, and for one version more of each adapter: the next, while the last one still answers."""
    ranks = [served_rank(registry, version) for version in versions]
    slots = len(settings.references) + len(settings.names)
    return ("--enable-lora", "--max-lora-rank", str(max(ranks)), "--max-loras", str(slots))


def _candidates(registry: Registry, names: Iterable[str]) -> tuple[list[Version], tuple[str, ...]]:
    """Candidates that may be served later, and what is to be said about damaged ones that get no requests now.

    Raises IntegrityError for a damaged one that has a share of the requests.
    """
    found, notes = [], []
    for name in sorted(names):
        record = registry.read_alias(name, CANDIDATE)
        try:
            if record is not None:
                version = registry.resolve(str(Reference(name, alias=CANDIDATE)))
                registry.read_file(version, CONFIG_FILE)
                found.append(version)
        except (IntegrityError, NotFoundError) as error:
            if record is None or record.share_percent:
                raise
            notes.append(f"{name}@{CANDIDATE} is left out, it gets no requests now: {error}")
    return found, tuple(notes)


def served_rank(registry: Registry, version: Version) -> int:
    """The least --max-lora-rank that serves a version; raises BadInputError where vLLM has none."""
    rank = int(registry.read_json_file(version, CONFIG_FILE)["r"])
    served = max_lora_rank(rank)
    if served is None:
        raise BadInputError(f"{version}: its rank {rank} is higher than vLLM serves")
    return served


def _base(registry: Registry, versions: Sequence[Version], model: Path | None) -> _Base:
    """The base model that all the versions were made for."""
    made_for = {str(version): base_of(registry, version) for version in versions}
    if len({base.name for base in made_for.values()}) > 1:
        told = ", ".join(f"{which} for '{base.name}'" for which, base in made_for.items())
        raise BadInputError(f"these adapters are for different base models ({told}); start one server for each")
    base = next(iter(made_for.values()))
    if model is not None:
        return _Base(base.name, ("--model", str(model), "--served-model-name", base.name))
    if kind_of(base) is Kind.HUB:
        pinned = ("--revision", base.revision) if base.revision else ()
        return _Base(base.name, ("--model", base.name, *pinned), renamed=False)
    return _Base(base.name, ("--model", str(model_folder(base)), "--served-model-name", base.name))


def base_of(registry: Registry, version: Version) -> ModelConfig:
    """The base model a version was made for: by its lineage, or else by its adapter_config.json."""
    try:
        facts = registry.read_json_file(version, LINEAGE_FILE)["base"]
        return ModelConfig(name=facts["name"], revision=facts.get("revision"))
    except NotFoundError:
        config = registry.read_json_file(version, CONFIG_FILE)
        return ModelConfig(name=config["base_model_name_or_path"], revision=config.get("revision"))
