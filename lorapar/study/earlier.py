"""Whether a study may go on in a folder: nothing that was computed there is lost to another study or other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar.config import RunConfig, load_config
from lorapar.config.study import StudyConfig
from lorapar.errors import BadInputError
from lorapar.study.cells import Cell
from lorapar.study.folder import StudyFolder

_SHOWN = 3
"""Differences that a refusal names."""


def refuse_other_settings(study: StudyConfig, base: RunConfig, cells: Sequence[Cell], folder: StudyFolder) -> None:
    """Raise BadInputError where the folder has results of another study or of other settings.

    Seeds, cells and what only tables show may change; a cell that has a result must come to the settings it had then.
    """
    if not any(folder.root.glob("cells/*/result*.json")) and not any(folder.computed(cell) for cell in cells):
        return
    for cell in cells:
        other = {digest for digest in folder.computed(cell) if digest != cell.digest}
        if other:
            now, before = _plain(cell.config), _settings_of(folder, cell)
            changes = _changes(before, now)
            if before is not None and not changes:  # an earlier build counted the same settings otherwise
                folder.take_over(cell, other)
                continue
            raise _refusal(folder, f"a result of '{cell.label}' with other settings", changes)
    changes = _changes(_study_of(folder), _about(study, base))
    if changes:
        raise _refusal(folder, "results of another study or of other settings", changes)


def _refusal(folder: StudyFolder, what: str, changes: Sequence[str]) -> BadInputError:
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    named = f" ({', '.join(changes[:_SHOWN])}{more})" if changes else ""
    return BadInputError(f"{folder.root}: holds {what}{named}; give another --out, so that they are kept")


def _about(study: StudyConfig, base: RunConfig) -> dict[str, Any]:
    """What all results of a folder have in common."""
    return {"study": study.name, "until": study.until, **_plain(base)}


def _study_of(folder: StudyFolder) -> dict[str, Any] | None:
    try:
        study, base, _ = folder.read_settings()
    except BadInputError:  # broken, or of a version with other settings: each result still says what it is of
        return None
    return _about(study, base)


def _settings_of(folder: StudyFolder, cell: Cell) -> dict[str, Any] | None:
    try:
        return _plain(load_config(file=folder.cell(cell) / "settings.yaml"))
    except BadInputError:
        return None


def _plain(config: RunConfig) -> dict[str, Any]:
    """Settings by section.key, without where cells share stages."""
    found: dict[str, Any] = {}
    sections = [("", config.model_dump(mode="json", exclude={"store"}))]
    for path, section in sections:
        for key, value in section.items():
            if isinstance(value, Mapping):
                sections.append((f"{path}{key}.", dict(value)))
            else:
                found[path + key] = value
    return found


def _changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Each value that differs, short enough for one line."""
    if before is None:
        return []
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} {_short(before.get(key))}, now {_short(now.get(key))}" for key in keys]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
