"""What the Tab key offers: presets, stages, commands with a schema, and adapters of a registry that is a folder.

Each is called by the shell for one press of Tab: a mistake in what is typed so far offers nothing and says nothing, and
no network is asked, so adapters of a registry in a bucket are not offered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DEFAULT_REGISTRY = Path("runs") / "registry"
"""Folder of the registry where neither an option nor LORAPAR_REGISTRY names one."""


def presets(incomplete: str) -> list[str]:
    """Names of presets; their folder is listed, since reading settings would take longer than a person waits."""
    folder = Path(__file__).parents[1] / "presets"
    return [path.stem for path in sorted(folder.glob("*.yaml")) if path.stem.startswith(incomplete)]


def stages(incomplete: str) -> list[str]:
    """Names of stages, in the order they run."""
    from lorapar.stages.contract import STAGE_NAMES

    return [name for name in STAGE_NAMES if name.startswith(incomplete)]


def commands_with_json(incomplete: str) -> list[str]:
    """Words of the commands that `lorapar schema` knows."""
    from lorapar.cli.documents_reference import DOCUMENTS

    words = dict.fromkeys(word for command in DOCUMENTS for word in command.split())
    return [word for word in words if word.startswith(incomplete)]


def adapters(ctx: Any, incomplete: str) -> list[str]:
    """`NAME`, and once that is typed `NAME@3` and `NAME@ALIAS`, of a registry that is a folder on this machine."""
    root = _registry_folder(ctx)
    if root is None:
        return []
    name, at, _ = incomplete.partition("@")
    if not at:
        return [one for one in _folders(root) if one.startswith(incomplete)]
    if name not in _folders(root):
        return []
    numbers = [one for one in _folders(root / name) if (root / name / one / "manifest.json").is_file()]
    aliases = sorted(path.stem for path in (root / name / "aliases").glob("*.json"))
    return [f"{name}@{one}" for one in [*aliases, *numbers] if f"{name}@{one}".startswith(incomplete)]


def adapter_names(ctx: Any, incomplete: str) -> list[str]:
    """`NAME` only."""
    return [] if "@" in incomplete else adapters(ctx, incomplete)


def _registry_folder(ctx: Any) -> Path | None:
    address = ctx.params.get("where") or os.environ.get("LORAPAR_REGISTRY") or str(DEFAULT_REGISTRY)
    folder = Path(address) / "adapters"
    return folder if "://" not in address and folder.is_dir() else None


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
