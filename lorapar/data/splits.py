"""Choose the files of a folder that is laid out like data sets of the hub: by configuration and split.

Configurations are in the YAML head of README.md (`configs`), splits there or in the names of files and folders. The
rules are those of `datasets.load_dataset(FOLDER)`, which would import torch and take seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError, nearest

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:^|/)([A-Za-z]\w*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.")
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
ANY = "all"
DEFAULT = "train"


@dataclass(frozen=True)
class Chosen:
    """The chosen files, and a line about the choice (None: all files)."""

    names: list[str]
    note: str | None = None


def choose(folder: str, names: Sequence[str], split: str, subset: str | None, readme: str | None) -> Chosen:
    """The files of a folder, by relative name, for the settings' configuration and split.

    Raises BadInputError naming the existing configurations or splits.
    """
    config = _configuration(folder, _configurations(readme), subset)
    of = _declared(config, names) if config is not None else _by_names(names)
    if config is not None and not any(of.values()):
        raise BadInputError(
            f"data.source: README.md of {folder} names files for the configuration '{config['config_name']}', and none "
            "of them is there"
        )
    if config is None and (not of or (len(of) < 2 and split == DEFAULT)):
        _require_default(folder, split)
        return Chosen(list(names))
    wanted = list(of) if split == ANY else split.split("+")
    for one in wanted:
        if one not in of:
            known = ", ".join(of)
            raise BadInputError(f"data.split: {folder} has no split '{one}'{nearest(one, list(of))}; it has: {known}")
    chosen = [name for one in wanted for name in of[one]]
    if not chosen:
        raise BadInputError(
            f"data.split: the files that README.md of {folder} names for the split '{split}' are missing"
        )
    which = f"the configuration '{config['config_name']}' in {folder}" if config is not None else folder
    rest = [one for one in of if one not in wanted]
    note = f"of {which} the split '{split}' is read" + (f", and not {', '.join(rest)} (data.split)" if rest else "")
    return Chosen(chosen, note)


def has_configurations(readme: str | None) -> bool:
    """Whether a README.md names configurations for `data.subset`."""
    return bool(_configurations(readme))


def read_readme(folder: Path) -> str | None:
    """The text of a folder's README.md; None where it is missing or unreadable."""
    try:
        return (folder / "README.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _require_default(folder: str, split: str) -> None:
    if split != DEFAULT:
        raise BadInputError(
            f"data.split: nothing in {folder} is named by a split, such as train.jsonl and test.jsonl; leave it out"
        )


def _configurations(readme: str | None) -> list[dict[str, Any]]:
    """The configurations in the YAML head of a README.md; empty where it names none."""
    head = _HEAD.match(readme or "")
    if head is None:
        return []
    import yaml

    try:
        found = yaml.safe_load(head[1])
    except yaml.YAMLError:
        return []
    configs = found.get("configs") if isinstance(found, dict) else None
    listed = [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    return [{"config_name": "default", **one} for one in listed if one.get("data_files") or one.get("data_dir")]


def _configuration(folder: str, configs: Sequence[dict[str, Any]], subset: str | None) -> dict[str, Any] | None:
    """The configuration that is read; None where the folder has none."""
    if not configs:
        return None
    by_name = {str(one["config_name"]): one for one in configs}
    if subset is not None:
        if subset not in by_name:
            meant, known = nearest(subset, list(by_name)), ", ".join(by_name)
            raise BadInputError(f"data.subset: {folder} has no configuration '{subset}'{meant}; it has: {known}")
        return by_name[subset]
    default = next((one for one in configs if one.get("default") is True), by_name.get("default"))
    if default is None and len(configs) > 1:
        raise BadInputError(f"data.subset: {folder} has several configurations; name one: {', '.join(by_name)}")
    return default or configs[0]


def _declared(config: dict[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split of a configuration."""
    base = str(config.get("data_dir") or "").strip("/")
    below = [name for name in names if not base or name.startswith(f"{base}/")]
    files = config.get("data_files")
    if files is None:
        return _by_names(below) or {DEFAULT: below}
    prefix = f"{base}/" if base else ""
    return {split: _matching(below, prefix, patterns) for split, patterns in _patterns(files).items()}


def _patterns(files: Any) -> dict[str, list[str]]:
    """Patterns of paths by split, from each form of `data_files`."""
    if isinstance(files, dict):
        return {str(split): _texts(patterns) for split, patterns in files.items()}
    found: dict[str, list[str]] = {}
    for one in files if isinstance(files, list) else [files]:
        split, patterns = (one.get("split", DEFAULT), one.get("path")) if isinstance(one, dict) else (DEFAULT, one)
        found.setdefault(str(split), []).extend(_texts(patterns))
    return found


def _texts(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None]


def _matching(names: Sequence[str], prefix: str, patterns: Sequence[str]) -> list[str]:
    wanted = [prefix + pattern.removeprefix("./") for pattern in patterns]
    return [name for name in names if any(_fits(name, one) for one in wanted)]


def _fits(name: str, pattern: str) -> bool:
    """Whether a glob matches: `*` stays within a folder, and `**` does not."""
    if "**" in pattern:
        return fnmatchcase(name, pattern) or fnmatchcase(name, pattern.replace("**/", ""))
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _by_names(names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split, if every name contains one; empty otherwise."""
    found: dict[str, list[str]] = {}
    for name in names:
        split = _split_in(name)
        if split is None:
            return {}
        found.setdefault(split, []).append(name)
    return found


def _split_in(name: str) -> str | None:
    """The split in the name of a file or folder: `train_sft-00000-of-00002.parquet`, `test.jsonl`, `dev/a.csv`."""
    if shard := _SHARD.search(name):
        word = shard[1]
        return next((split for split, words in _WORDS.items() if word in words), word)
    for part in reversed(name.lower().split("/")):
        words = set(re.split(r"[-._ 0-9]+", part))
        split = next((split for split, known in _WORDS.items() if words & set(known)), None)
        if split is not None:
            return split
    return None
