"""Captured files of an unfinished run: the next call reads the same ones, whatever was captured since.

`plan` settles days and files of a capture again at each call, and a server writes some every few minutes. Without this
a run that was killed would begin with other rows, and nothing it had done could be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.config import RunConfig
from lorapar.config.capture import CaptureSource
from lorapar.local.folder import RunFolder
from lorapar.store import write_atomically


class _Pinned(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    asked: dict[str, Any]
    """The settings that were settled then."""
    capture: CaptureSource
    """What they came to."""


def with_pinned(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The settings with the days and files that the folder's unfinished run has begun with, where they are its own."""
    found = _read(_file(folder))
    if found is None or found.asked != _asked(config):
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"capture": found.capture})})


def pinned_text(config: RunConfig, folder: RunFolder) -> str | None:
    """A line on it, for people; None where `with_pinned` changes nothing."""
    found = with_pinned(config, folder).data.capture
    if found == config.data.capture:
        return None
    return (
        f"goes on with what {config.data.named} held when this run began (snapshot {found.snapshot}); to take what has "
        f"come since, delete {_file(folder)}"
    )


def pin(config: RunConfig, resolved: RunConfig, folder: RunFolder) -> None:
    """Note what the settings came to, until `unpin`."""
    if config.data.has_capture and config.data.capture.snapshot is None:
        found = _Pinned(asked=_asked(config), capture=resolved.data.capture)
        _file(folder).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(folder), found.model_dump_json(indent=2))


def unpin(folder: RunFolder) -> None:
    """The run has come to its end; the next one takes what is there then."""
    _file(folder).unlink(missing_ok=True)


def _file(folder: RunFolder) -> Path:
    return folder.root / "work" / "captured.json"


def _read(file: Path) -> _Pinned | None:
    try:
        return _Pinned.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _asked(config: RunConfig) -> dict[str, Any]:
    return {
        "sources": [part.source for part in config.data.parts],
        "registry": config.registry.address,
        "capture": config.data.capture.model_dump(mode="json"),
    }
