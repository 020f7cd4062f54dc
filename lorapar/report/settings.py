"""Every setting of the run, which of them differ from the defaults, and the digests of what it read and made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lorapar.config import RunConfig
from lorapar.report.formats import number, shorten
from lorapar.report.sources import Facts
from lorapar.store import is_s3


@dataclass(frozen=True)
class Setting:
    """One setting with its value in this run."""

    key: str
    value: str
    default: str
    description: str

    @property
    def changed(self) -> bool:
        """Whether it differs from the default."""
        return self.value != self.default


@dataclass(frozen=True)
class SettingGroup:
    """The settings of one section."""

    name: str
    description: str
    settings: tuple[Setting, ...]


def with_near_addresses(config: RunConfig, run: Path | None) -> RunConfig:
    """The settings, folders of storage in or beside the run folder as seen from there.

    A report is sent to others, and the runner fills in the registry's folder as an absolute path of its machine.
    """
    if run is None:
        return config
    shown = {}
    for name in ("store", "registry"):
        section = getattr(config, name)
        if section.address is not None and not is_s3(section.address):
            shown[name] = section.model_copy(update={"address": _near(Path(section.address), run.resolve())})
    return config.model_copy(update=shown)


def _near(path: Path, run: Path) -> str:
    return os.path.relpath(path, run) if path.is_absolute() and path.is_relative_to(run.parent) else str(path)


def setting_groups(config: RunConfig) -> list[SettingGroup]:
    """All settings by section; those that stand in no section come first."""
    defaults = RunConfig()
    alone: list[Setting] = []
    groups: list[SettingGroup] = []
    for name, field in RunConfig.model_fields.items():
        value, default, about = getattr(config, name), getattr(defaults, name), field.description or ""
        if name == "systems" and value == default:
            continue  # not written down either
        if isinstance(value, BaseModel):
            groups.append(SettingGroup(name, about, tuple(_section(name, value, default))))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            groups.append(SettingGroup(name, about, tuple(_listed(name, value))))
        else:
            alone.append(_setting(name, value, default, about))
    return [SettingGroup("run", "Settings of the whole run", tuple(alone)), *groups]


def changed_settings(groups: list[SettingGroup]) -> list[Setting]:
    """The settings that a person or `plan` set; digests, which plan fills in, stand in a table of their own."""
    return [one for group in groups for one in group.settings if one.changed and not one.key.endswith("digest")]


def _section(path: str, value: BaseModel, default: Any) -> Iterator[Setting]:
    for name, field in type(value).model_fields.items():
        own, usual = getattr(value, name), getattr(default, name, None)
        key, about = f"{path}.{field.alias or name}", field.description or ""
        if isinstance(own, BaseModel):
            yield from _section(key, own, usual)
        elif isinstance(own, tuple) and own and isinstance(own[0], BaseModel):
            yield from _listed(key, own)
        else:
            yield _setting(key, own, usual, about)


def _listed(path: str, values: tuple[Any, ...]) -> Iterator[Setting]:
    """Members of a list, such as teachers; the defaults are those of an untouched member."""
    for place, value in enumerate(values):
        defaults = type(value).model_construct()
        yield from _section(f"{path}[{place}]", value, defaults)


def _setting(key: str, value: Any, default: Any, description: str) -> Setting:
    return Setting(key, _words(value), _words(default), description)


def _words(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return number(value) if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def documents(facts: Facts) -> list[tuple[str, str]]:
    """(title, JSON) of what else says how the adapter came about: its lineage, and what TRL's trainers were told."""
    found = [
        ("lineage.json of the published adapter", facts.lineage),
        ("arguments of TRL's SFTTrainer", (facts.sft or {}).get("trl")),
        ("arguments of TRL's GRPOTrainer", (facts.rl or {}).get("trl")),
    ]
    return [
        (title, shorten(json.dumps(value, indent=2, ensure_ascii=False), 40_000)) for title, value in found if value
    ]


def digest_rows(facts: Facts) -> list[tuple[str, str]]:
    """(what, digest): the code's version, the model, the data and every artifact that is there."""
    rows: list[tuple[str, str]] = []
    if facts.plan is not None:
        rows += [("lorapar version", str(facts.plan.get("version"))), ("planned", str(facts.plan.get("created")))]
    if facts.config is not None:
        model, data = facts.config.model, facts.config.data
        rows += [("base model", model.name), ("base model revision", model.revision or "not set")]
        rows += [("base model digest", model.digest or "not set"), ("data digest", data.digest or "not set")]
    return rows + [(f"{name} (artifact)", digest) for name, digest in facts.digests.items()]
