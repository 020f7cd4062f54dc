"""Kinds of data sources, their rows and identity: the task mix, files, data sets of the hub, and captures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

from lorapar.config import DataConfig
from lorapar.config.data import CAPTURE, TASK_MIX
from lorapar.data import splits, taskmix
from lorapar.data.mapping import check_mapping
from lorapar.data.readers import (
    READERS,
    Log,
    RawRow,
    is_of_another_kind,
    is_packed,
    is_unread,
    read_rows,
    row_ending,
)
from lorapar.errors import BadInputError, nearest
from lorapar.records import digest_of
from lorapar.store import file_sha256, is_s3, parse_address

_HUB = "hub:"


class Kind(Enum):
    """Where rows come from."""

    TASK_MIX = TASK_MIX
    FILE = "file"
    BUCKET = "bucket"
    HUB = "hub"
    CAPTURE = "capture"


def kind_of(config: DataConfig) -> Kind:
    """Where the rows of one source come from (`config.parts` are the sources).

    Raises BadInputError for unknown addresses and for settings without effect.
    """
    source = config.source
    check_mapping(config)
    if source == TASK_MIX:
        _refuse(config, "revision", "subset", "split", "mapping", "columns", "limit")
        if any(value is not None for value in config.length.model_dump().values()):
            raise BadInputError("data.length: does nothing for the task mix; leave it out")
        return Kind.TASK_MIX
    if source.startswith(_HUB):
        return Kind.HUB
    if source.startswith(CAPTURE):
        _check_capture(config)
        return Kind.CAPTURE
    if is_s3(source):
        parse_address(source)
        _refuse(config, "revision", "subset", *(["split"] if row_ending(source) else []))
        return Kind.BUCKET
    if Path(source).expanduser().is_dir():
        readme = splits.read_readme(Path(source).expanduser())
        _refuse(config, "revision", *([] if splits.has_configurations(readme) else ["subset"]))
        return Kind.FILE
    if "://" in source:
        raise BadInputError(f"data.source: {source} is an address that cannot be read; {_KNOWN}")
    if not Path(source).suffix:
        raise BadInputError(f"data.source: '{source}' is not a source{_meant(source)}; {_KNOWN}")
    _refuse(config, "revision", "subset", "split")
    return Kind.FILE


def _meant(source: str) -> str:
    hub = [f"{_HUB}{source}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else []
    return f" (did you mean '{hub[0]}'?)" if hub else nearest(source, [TASK_MIX, _HUB, CAPTURE])


def refuse_beside(config: DataConfig, settings: Path) -> None:
    """Raise BadInputError for a relative file that is not here, and lies beside the file of settings that names it."""
    for source in (part.source for part in config.parts):
        path = settings.parent / source
        if source == TASK_MIX or source.startswith((_HUB, CAPTURE)) or "://" in source:
            continue
        if path.exists() and not Path(source).expanduser().exists():
            raise BadInputError(
                f"data.source: there is no {source} here, but one beside {settings}: relative paths are looked for "
                f"where the command is run, not beside the settings; write {path} or run it there"
            )


def is_far(config: DataConfig) -> bool:
    """Whether rows come from the hub or a capture, so that reading them costs a download or a teacher's answers."""
    return not {Kind.HUB, Kind.CAPTURE}.isdisjoint(map(kind_of, config.parts))


def _check_capture(config: DataConfig) -> None:
    """Raise BadInputError for an impossible name of a capture, and for settings without effect on one."""
    name = config.source.removeprefix(CAPTURE)
    before, alias, _ = name.partition("@")
    if alias:
        raise BadInputError(
            f"data.source: '{config.source}': a capture has no aliases or versions, only an adapter has; write "
            f"{CAPTURE}{before} (serving.capture.adapters says whose requests a server keeps)"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BadInputError(f"data.source: '{config.source}' names no capture; write {CAPTURE}NAME")
    _refuse(config, "revision", "subset", "split", "mapping")
    given = config.columns.model_dump(exclude_defaults=True) if config.columns is not None else {}
    if strange := sorted(given.keys() - {"reference_pattern"}):
        raise BadInputError(
            f"data.columns.{strange[0]}: does nothing for a capture, whose columns are known; leave it out"
        )


def source_rows(config: DataConfig, log: Log, *, streamed: bool = False) -> Iterator[RawRow]:
    """Rows of files or a hub data set, with the place of each; `log` gets lines about how files are read.

    `streamed`: read rows of the hub as needed, so that the first ones do not need the whole download.
    """
    if kind_of(config) is Kind.HUB:
        return _hub_rows(config, streamed=streamed)
    return chain.from_iterable(_file_rows(name, path, log) for name, path in _files(config, log))


def _log_files(config: DataConfig, read: Sequence[str], unread: Sequence[str], log: Log) -> None:
    """Log which files of a folder or prefix are read, if there are several, and which others may hold rows."""
    if len(read) > 1:
        log(f"{config.source} holds {len(read)} files, and all are read as one: {_some(read)}")
    for what, is_one in (("packed files", is_packed), ("files of other kinds", is_of_another_kind)):
        if others := sorted(filter(is_one, unread)):
            log(f"{config.source} holds {what}, which are not read: {_some(others)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")


def data_digest(config: DataConfig) -> str:
    """sha256 identity of what the source holds: a file's bytes, a hub commit, or the generator and its sizes.

    Seed and mapping are settings of the stage that reads the rows, so they are not part of it. Raises BadInputError
    where the source cannot be read, UnreachableError where the hub does not answer.
    """
    digests = [_identity(part)[1] for part in config.parts]
    return digest_of(digests) if config.sources else digests[0]


def resolve_data(config: DataConfig) -> DataConfig:
    """The settings with `digest` filled in, `revision` of hub data sets turned into a commit, and captures' days."""
    if Kind.CAPTURE in map(kind_of, config.parts):
        from lorapar.data.captured import with_window

        config = with_window(config)
    found = [_identity(part) for part in config.parts]
    if not config.sources:
        ((revision, digest),) = found
        return config.model_copy(update={"revision": revision, "digest": digest})
    pairs = zip(config.sources, found, strict=True)
    sources = tuple(one.model_copy(update={"revision": revision}) for one, (revision, _) in pairs)
    return config.model_copy(update={"sources": sources, "digest": digest_of([digest for _, digest in found])})


def _identity(config: DataConfig) -> tuple[str | None, str]:
    """Hub commit (None: not of the hub) and digest."""
    kind = kind_of(config)
    if kind is Kind.TASK_MIX:
        generator = file_sha256(Path(taskmix.__file__))
        return None, digest_of({"generator": generator, "sizes": config.task_mix.model_dump()})
    if kind is Kind.CAPTURE:
        from lorapar.data.captured import capture_digest

        return None, capture_digest(config)
    if kind is not Kind.HUB:
        files = _files(config)
        for name, path in files:
            with suppress(ModuleNotFoundError):  # the client image has no pyarrow; `prepare` runs in another image
                # Raises where the file is missing or its ending is wrong.
                next(_file_rows(name, path, lambda note: None), None)
        digests = [file_sha256(path) for _, path in files]
        return None, digests[0] if len(digests) == 1 else digest_of(digests)
    commit = _hub_commit(config)
    what = {"hub": _hub_name(config), "commit": commit, "subset": config.subset, "split": config.split}
    return commit, digest_of(what)


def _files(config: DataConfig, log: Log = lambda note: None) -> list[tuple[str, Path]]:
    """(name, local path) of each file of rows, in reading order; `log` gets a line about others at the source."""
    files, unread, readme = _all_files(config)
    if len(files) == 1 and files[0][0].rstrip("/") == _plain_address(config):
        return files  # a file named directly
    base = _plain_address(config) + "/"
    by_name = {name.removeprefix(base): (name, path) for name, path in files}
    chosen = splits.choose(config.source, list(by_name), config.split, config.subset, readme)
    if chosen.note is not None:
        log(chosen.note)
    _log_files(config, chosen.names, unread, log)
    return [by_name[name] for name in chosen.names]


def _plain_address(config: DataConfig) -> str:
    """The source as the beginning of its files' names."""
    source = config.source
    return source.rstrip("/") if kind_of(config) is Kind.BUCKET else str(Path(source).expanduser())


def _all_files(config: DataConfig) -> tuple[list[tuple[str, Path]], list[str], str | None]:
    """All files of rows at the source, like `_files`; names of those `is_unread`; the text of a README.md there."""
    if kind_of(config) is Kind.BUCKET:
        from lorapar.data.bucket import bucket_files

        return *bucket_files(config.source), None
    source = Path(config.source).expanduser()
    if not source.is_dir():
        return [(str(source), source)], [], None
    of_splits, arrow = (source / "dataset_dict.json").is_file(), any(source.glob("*.arrow"))
    if of_splits or (arrow and (source / "state.json").is_file()):
        raise BadInputError(
            f"data.source: {source} was written by save_to_disk of datasets, which is not read; write Parquet, of "
            "several splits each by itself: datasets.load_from_disk(FOLDER).to_parquet('rows.parquet')"
        )
    there = [one for one in source.rglob("*") if (row_ending(one.name) or is_unread(one.name)) and one.is_file()]
    paths = sorted(path for path in there if row_ending(path.name) and path.name not in _NO_ROWS)
    if not paths:
        raise BadInputError(f"data.source: no file in {source} ends in one of {', '.join(READERS)}")
    unread = [str(path.relative_to(source)) for path in there if is_unread(path.name)]
    return [(str(path), path) for path in paths], unread, splits.read_readme(source)


_NO_ROWS = ("dataset_infos.json", "dataset_info.json")
"""Files that `datasets` writes next to rows."""


def _file_rows(name: str, path: Path, log: Log) -> Iterator[RawRow]:
    """Rows of a file; messages name the file as in the settings, not its copy in the cache."""
    try:
        for where, row in read_rows(path, lambda note: log(note.replace(str(path), name))):
            yield where.replace(str(path), name), row
    except BadInputError as error:
        raise BadInputError(str(error).replace(str(path), name)) from None


_KNOWN = f"known: {TASK_MIX}, a file or s3:// object ending in {', '.join(READERS)}, {_HUB}OWNER/NAME, or {CAPTURE}NAME"


def _refuse(config: DataConfig, *fields: str) -> None:
    """Refuse a setting that has no effect."""
    for field in fields:
        if getattr(config, field) not in (None, DataConfig.model_fields[field].default):
            what = "a bucket" if is_s3(config.source) else "a local file"
            what = "the task mix (its sizes are data.task_mix)" if config.source == TASK_MIX else what
            what = "a capture" if config.source.startswith(CAPTURE) else what
            raise BadInputError(f"data.{field}: does nothing for {what}; leave it out")


def _hub_name(config: DataConfig) -> str:
    return config.source.removeprefix(_HUB)


def _hub_commit(config: DataConfig) -> str:
    from lorapar.basemodel.hub import commit_of

    return commit_of(_hub_name(config), config.revision, "dataset")


def _hub_rows(config: DataConfig, *, streamed: bool) -> Iterator[RawRow]:
    from lorapar.basemodel.hub import hub_errors

    name, commit = _hub_name(config), _hub_commit(config)
    with hub_errors(name, commit, "dataset"):
        rows = _load_dataset(name, commit, config, streamed=streamed)
    for number, row in enumerate(rows, 1):
        yield f"{config.source} ({config.split}), row {number}", row


def _load_dataset(name: str, commit: str, config: DataConfig, *, streamed: bool) -> Any:
    import datasets

    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config.subset, split=config.split, revision=commit, streaming=streamed)
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # An unknown subset or split, or a data set that is a script: datasets says so in several lines.
        raise BadInputError(f"data.source: {config.source}: {' '.join(str(error).split())}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
