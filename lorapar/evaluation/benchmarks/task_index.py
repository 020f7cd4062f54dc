"""Which files of lm-eval, or of a folder, hold a task, a group or a tag of some name, found in their text.

lm-eval reads all its 14,000 files as YAML to find one, which takes half a minute. Needs neither torch nor lm_eval.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_VALUE = r"[\"']?(\w[\w.()+-]*)[\"']?[ \t]*(?:#.*)?"
_NAMED = re.compile(rf"^[\"']?(task|group|tag)[\"']?:[ \t]*{_VALUE}$", re.MULTILINE)
_TAGS = re.compile(r"^[\"']?tag[\"']?:[ \t]*(?:\[([^\]\n]*)\]|\n((?:[ \t]*-[ \t]*[^\n]+\n?)+))", re.MULTILINE)
_INCLUDES = re.compile(r"^[\"']?include[\"']?:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
_CLASS = re.compile(r"^[\"']?class[\"']?:", re.MULTILINE)
_LEFT_OUT = {"__pycache__", ".ipynb_checkpoints"}

Names = dict[str, dict[str, list[Path]]]
"""By name and kind (task, group, tag) the files that say it; of a tag those of its tasks."""


def names_in(folder: Path | None) -> Names:
    """What there is in a folder, read again each time; of lm-eval's own (None) once a process.

    Raises ModuleNotFoundError where lm-eval is not installed.
    """
    return _names_of_library() if folder is None else _scan(folder)


@cache
def _names_of_library() -> Names:
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")
    return _scan(Path(next(iter(found.submodule_search_locations))) / "tasks")


def _scan(place: Path) -> Names:
    found: Names = {}
    tags: dict[Path, list[str]] = {}
    for path in sorted(place.rglob("*.yaml")):
        if _LEFT_OUT.intersection(path.parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        named = {kind: name for kind, name in _NAMED.findall(text) if kind != "tag"}
        kind = "task" if "group" not in named or _CLASS.search(text) else "group"
        if kind not in named:
            continue
        found.setdefault(named[kind], {}).setdefault(kind, []).append(path)
        for tag in _tags_of(path, tags, text) if kind == "task" else ():
            found.setdefault(tag, {}).setdefault("tag", []).append(path)
    return found


def _tags_of(path: Path, known: dict[Path, list[str]], text: str | None = None) -> list[str]:
    """Tags that a file gives its task itself, else those of the last file it includes that gives any."""
    if path in known:
        return known[path]
    known[path] = []  # of a file that includes itself
    if text is None:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    own = [name for kind, name in _NAMED.findall(text) if kind == "tag"]
    for inline, listed in _TAGS.findall(text):
        parts = inline.split(",") if inline else [line.strip().lstrip("-") for line in listed.splitlines()]
        own += [part.partition("#")[0].strip().strip("\"'") for part in parts]
    if not own:
        for include in _INCLUDES.findall(text):
            own = _tags_of(path.parent / include, known) or own
    known[path] = [name for name in own if name]
    return known[path]
