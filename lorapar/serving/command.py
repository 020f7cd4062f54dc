"""The exact command that serves adapters of a registry with vLLM, derived from what their aliases name now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorapar.basemodel import model_folder
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.capture.rules import Rules, regex_is_there
from lorapar.config import ModelConfig
from lorapar.config.adapter import kind_of_peft, not_served
from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry import CANDIDATE, Reference, Registry, Version, max_lora_rank
from lorapar.registry.package import CONFIG_FILE
from lorapar.serving.asking import candidate_notes, ending_notes, quantised_notes, template_arguments
from lorapar.serving.base_identity import (
    ANY,
    base_of,
    base_text,
    cached_folder_of_hub,
    is_on_hub,
    refuse_unequal_answers,
    refuse_unequal_answers_of_hub,
    require_same,
)
from lorapar.serving.settings import ServingSettings, capture_config, compact_text
from lorapar.store import NotFoundError, is_s3

MIDDLEWARE = "lorapar.serving.middleware.AdapterMiddleware"
# Not `vllm serve`: it looks up the version of a package named vllm, and the CPU build has another name.
_PROGRAM = ("python", "-m", "vllm.entrypoints.openai.api_server")


@dataclass(frozen=True)
class ServerCommand:
    """A vLLM server: variables to add to its environment, and its arguments from `python` on."""

    environment: dict[str, str]
    arguments: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was left out and why, and other notes for a person."""

    def __str__(self) -> str:
        """The command for a shell: variables first, one option on each line."""
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
    """A base model as the server's arguments and the adapters' files name it."""

    public: str
    arguments: tuple[str, ...]
    digest: str = ""
    """Its identity, with which the server compares later versions."""
    notes: tuple[str, ...] = ()
    renamed: bool = True
    """Whether vLLM's --model is not the public name."""


def server_command(
    registry: Registry,
    names: Sequence[str],
    *,
    model: Path | None = None,
    extra: Sequence[str] = (),
    other_base: bool = False,
    capture: str = "",
) -> ServerCommand:
    """The server for some adapters of one base model.

    Args:
        names: NAME for the version that `production` names, NAME@ALIAS for another alias.
        model: a local copy of the base model, where the server should not fetch it.
        extra: further arguments of vLLM; they come last, and so override those derived here.
        other_base: serve over a base with another or an unknown identity.
        capture: the settings of capture, as text or file; empty: from the environment.

    Raises BadInputError for a name that is no alias of the registry, adapters of different base models, and ranks that
    vLLM does not serve; IntegrityError where the base is not the one that a version was trained on.
    """
    _refuse_versions(names)
    settings = ServingSettings(registry=_anywhere(registry.address), adapters=",".join(names), capture=capture)
    settings = settings.model_copy(update={"capture": _capture(settings)})
    versions = [registry.resolve(str(reference)) for reference in settings.references]
    waiting, notes = _candidates(registry, settings.names)
    _refuse_replaced(extra)
    base = _base(registry, versions, model, compared=not other_base)
    settings = settings.model_copy(
        update={"base_model": base.public if base.renamed else "", "base_digest": base.digest}
    )
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
        (
            *notes,
            *base.notes,
            *_other_candidates(registry, base, waiting),
            *candidate_notes(registry, versions[0], waiting),
            *quantised_notes(registry, versions),
            *ending_notes(registry, versions),
        ),
    )


def _anywhere(address: str) -> str:
    """The address from wherever the printed command is run."""
    return address if is_s3(address) else str(Path(address).absolute())


def _capture(settings: ServingSettings) -> str:
    """The settings of capture in one line; checks their rules if the package for that is installed."""
    if not settings.capture:
        return ""
    config = capture_config(settings, "--capture")
    if regex_is_there():
        Rules.of(config)
    return compact_text(config)


def _refuse_replaced(extra: Sequence[str]) -> None:
    """Refuse options that would replace the base after it was compared with the adapters' base."""
    for argument in extra:
        option = argument.partition("=")[0]
        if option in ("--model", "--revision"):
            raise BadInputError(
                f"--vllm '{option} …': give a copy of the base model as `lorapar serve --model FOLDER`, which compares "
                "it with the one that was trained on; the revision is that of the adapter"
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
    """Slots for every alias, and one more for each adapter: the next version loads while the last one still answers."""
    ranks = [served_rank(registry, version) for version in versions]
    slots = len(settings.references) + len(settings.names)
    return ("--enable-lora", "--max-lora-rank", str(max(ranks)), "--max-loras", str(slots))


def _candidates(registry: Registry, names: Iterable[str]) -> tuple[list[Version], tuple[str, ...]]:
    """Candidates that may be served later, and notes about damaged ones that get no requests now.

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
    """The smallest --max-lora-rank that serves a version; raises BadInputError where vLLM has none."""
    config = registry.read_json_file(version, CONFIG_FILE)
    if (refused := not_served(kind_of_peft(config))) is not None:
        raise BadInputError(f"{version} {refused}; load it with PEFT, or ask it with `lorapar ask`")
    rank = int(config["r"])
    served = max_lora_rank(rank)
    if served is None:
        raise BadInputError(f"{version}: its rank {rank} is higher than vLLM serves")
    return served


def _base(registry: Registry, versions: Sequence[Version], model: Path | None, *, compared: bool) -> _Base:
    """The base model that all the versions were made for and that is in `model`; raises like `server_command`."""
    made_for = {str(version): base_of(registry, version) for version in versions}
    identities = {(base.name, base.revision, base.digest) for base in made_for.values()}
    if len({base.name for base in made_for.values()}) > 1 or (compared and len(identities) > 1):
        bases = ", ".join(f"{which} for {base_text(base)}" for which, base in made_for.items())
        raise BadInputError(f"these adapters are for different base models ({bases}); start one server for each")
    which, base = next(iter(made_for.items()))
    digest = (base.digest or "") if compared else ANY
    if model is not None and str(model) == base.name and is_on_hub(base) and not model.is_dir():
        model = None  # the base by its own name, at the commit it was trained on
    if model is None and is_on_hub(base):
        refuse_unequal_answers_of_hub(base.name, base.revision)
        pinned = ("--revision", base.revision) if base.revision else ()
        return _Base(base.name, ("--model", base.name, *pinned), digest, renamed=False)
    if model is None and kind_of(base) is Kind.HUB:
        raise BadInputError(f"{which}: its base model '{base.name}' was a folder; name where it is now: --model FOLDER")
    named = model or _own_folder(which, base, compared=compared)
    folder = named if named.is_dir() else cached_folder_of_hub(str(named))
    if folder is not None:
        refuse_unequal_answers(folder)
    notes: tuple[str, ...] = ()
    if compared and (model is not None or kind_of(base) is Kind.LOCAL):
        if folder is not None:
            unknown = require_same(which, base, folder)
            notes = (
                (f"'{named}' could not be compared with the base model {base_text(base)}: {unknown}",)
                if unknown
                else ()
            )
        else:  # on the server's machine or the hub; without an identity here the server compares it itself
            digest = ""
            notes = (
                f"'{named}' is not on this machine: where the server runs it is compared with the base model "
                f"{base_text(base)} before the first adapter is loaded",
            )
    pinned = ("--revision", folder.name) if folder is not None and folder != named else ()  # the hub's, as compared
    return _Base(base.name, ("--model", str(named), *pinned, "--served-model-name", base.name), digest, notes=notes)


def _own_folder(which: str, base: ModelConfig, *, compared: bool) -> Path:
    try:
        return model_folder(base if compared else base.model_copy(update={"digest": None}))
    except IntegrityError as error:
        raise IntegrityError(f"{which}: was trained on the base model {base_text(base)}: {error}") from None


def _other_candidates(registry: Registry, base: _Base, waiting: Iterable[Version]) -> Iterable[str]:
    """Notes about candidates that the server will not load, since they were trained on another base."""
    for version in waiting:
        own = base_of(registry, version)
        differs = own.digest and base.digest not in ("", ANY, own.digest)
        if own.name != base.public or differs:
            yield f"{version} is a candidate for another base model, {base_text(own)}: this server will not load it"
