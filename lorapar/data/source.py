"""What a data source is, its rows and its identity: the task mix, a local file, or a data set of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from lorapar.config import DataConfig
from lorapar.data import taskmix
from lorapar.data.mapping import check_mapping
from lorapar.data.readers import READERS, RawRow, read_rows
from lorapar.errors import BadInputError, nearest
from lorapar.records import digest_of
from lorapar.store import file_sha256

TASK_MIX = "task-mix"
_HUB = "hub:"


class Kind(Enum):
    """Where rows come from."""

    TASK_MIX = TASK_MIX
    FILE = "file"
    HUB = "hub"


def kind_of(config: DataConfig) -> Kind:
    """Where the rows come from; raises BadInputError for addresses that are not understood and settings they ignore."""
    source = config.source
    check_mapping(config)
    if source == TASK_MIX:
        _refuse(config, "revision", "subset", "mapping", "columns", "limit")
        return Kind.TASK_MIX
    if source.startswith(_HUB):
        return Kind.HUB
    if "://" in source:
        raise BadInputError(f"data.source: {source} is an address that cannot be read; {_KNOWN}")
    if not Path(source).suffix:
        raise BadInputError(f"data.source: '{source}' is no source{nearest(source, [TASK_MIX, _HUB])}; {_KNOWN}")
    _refuse(config, "revision", "subset")
    return Kind.FILE


def source_rows(config: DataConfig) -> Iterator[RawRow]:
    """Rows of a file or a hub data set, with the place each stands at."""
    if kind_of(config) is Kind.FILE:
        return read_rows(Path(config.source).expanduser())
    return _hub_rows(config)


def data_digest(config: DataConfig) -> str:
    """sha256 identity of what the source holds: a file's bytes, a hub commit, or the generator and its sizes.

    The seed and the mapping are settings of the stage that reads the rows, so they are not part of it. Raises
    BadInputError where the source cannot be read, UnreachableError where the hub does not answer.
    """
    return _identity(config)[1]


def resolve_data(config: DataConfig) -> DataConfig:
    """The settings with `digest` filled in and, for a hub data set, `revision` turned into a commit."""
    revision, digest = _identity(config)
    return config.model_copy(update={"revision": revision, "digest": digest})


def _identity(config: DataConfig) -> tuple[str | None, str]:
    """Hub commit (None: not of the hub) and digest."""
    kind = kind_of(config)
    if kind is Kind.TASK_MIX:
        generator = file_sha256(Path(taskmix.__file__))
        return None, digest_of({"generator": generator, "sizes": config.task_mix.model_dump()})
    if kind is Kind.FILE:
        path = Path(config.source).expanduser()
        next(read_rows(path), None)  # complains where the file is missing or not what its ending says
        return None, file_sha256(path)
    commit = _hub_commit(config)
    what = {"hub": _hub_name(config), "commit": commit, "subset": config.subset, "split": config.split}
    return commit, digest_of(what)


_KNOWN = f"known: {TASK_MIX}, a local file ending in {', '.join(READERS)}, or {_HUB}OWNER/NAME"


def _refuse(config: DataConfig, *fields: str) -> None:
    """A setting that would do nothing is a mistake to hear about."""
    for field in fields:
        if getattr(config, field) is not None:
            what = "the task mix (its sizes are data.task_mix)" if config.source == TASK_MIX else "a local file"
            raise BadInputError(f"data.{field}: does nothing for {what}; leave it out")


def _hub_name(config: DataConfig) -> str:
    return config.source.removeprefix(_HUB)


def _hub_commit(config: DataConfig) -> str:
    from lorapar.basemodel.hub import commit_of

    return commit_of(_hub_name(config), config.revision, "dataset")


def _hub_rows(config: DataConfig) -> Iterator[RawRow]:
    from lorapar.basemodel.hub import hub_errors

    name, commit = _hub_name(config), _hub_commit(config)
    with hub_errors(name, commit, "dataset"):
        rows = _load_dataset(name, commit, config)
    for number, row in enumerate(rows, 1):
        yield f"{config.source} ({config.split}), row {number}", row


def _load_dataset(name: str, commit: str, config: DataConfig) -> Any:
    import datasets

    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config.subset, split=config.split, revision=commit)
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # An unknown subset or split, or a data set that is a script: datasets says which, in several lines.
        raise BadInputError(f"data.source: {config.source}: {' '.join(str(error).split())}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
