"""The digest of a module's code with everything of this package that it imports, directly or not.

A finished stage is reused only while the code that made it is unchanged, and so is a remembered answer; a change to the
report leaves both alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lorapar
from lorapar import __version__

_PACKAGE = "lorapar"
_ROOT = Path(lorapar.__file__).parent
# A statement of its own line, with what is in its brackets or behind it. Every task works out its stage's digest,
# and Python's own parser takes a quarter of a second for a hundred files; a test compares the two.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+import[ \t]+(?:\((?P<bracketed>[^)]*)\)|(?P<named>[^\n(]+))"
    r"|import[ \t]+(?P<whole>[^\n]+))",
    re.MULTILINE,
)
_COMMENT = re.compile(r"#[^\n]*")
# What only says how a call is made, or how a person is told, does not decide what a stage makes.
_WITHOUT_EFFECT = {
    f"{_PACKAGE}.{name}"
    for name in ("errors", "progress", "stopping", "checkpoint", "imports", "stages.contract", "stages.processes")
} | {_PACKAGE}


@cache
def code_digest(module: str, without: frozenset[str] = frozenset()) -> str:
    """sha256 over the package version and the source of `module` and of what it imports from this package.

    `without`: modules and packages that are left out, with what only they import.
    """
    digest = hashlib.sha256(__version__.encode())
    for name in sorted(_reachable(module, without)):
        digest.update(name.encode() + b"\0" + (_source(name) + _beside(name)).encode() + b"\0")
    return digest.hexdigest()


def own_code_digest(settings: Mapping[str, Any]) -> str:
    """Digest of the reward functions of a person's own that the settings name by import path; empty without any.

    Only the files themselves are read, not what they import.
    """
    rewards = settings.get("rl", {}).get("rewards", {})
    modules = sorted({name.partition(":")[0] for name in rewards if ":" in name})
    sources = [module + _outside_source(module) for module in modules]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest() if sources else ""


def _outside_source(module: str) -> str:
    """Source of a module that is not of this package; empty where it cannot be found, which the rl stage will say."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return ""
    origin = spec.origin if spec is not None else None
    return Path(origin).read_text(encoding="utf-8") if origin is not None and origin.endswith(".py") else ""


def _reachable(module: str, without: Iterable[str] = ()) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in _WITHOUT_EFFECT or any(f"{name}.".startswith(f"{one}.") for one in without):
            continue
        found.add(name)
        waiting += _imports(name)
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The modules of this package that one of them imports, those inside functions included."""
    names: list[str] = []
    for found in _IMPORT.finditer(_source(module)):
        listed = _COMMENT.sub("", found["bracketed"] or found["named"] or found["whole"]).split(",")
        imported = [words[0] for words in map(str.split, listed) if words]
        if found["whole"] is not None:
            names += imported
        else:
            names += [found["module"], *(f"{found['module']}.{name}" for name in imported)]
    return tuple(name for name in dict.fromkeys(names) if _is_module(name))


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module of this package, not a name inside one."""
    return name.split(".")[0] == _PACKAGE and _file_of(name) is not None


@cache
def _source(module: str) -> str:
    path = _file_of(module)
    return path.read_text(encoding="utf-8") if path is not None else ""


@cache
def _beside(module: str) -> str:
    """What a package says in YAML beside its code, such as the task files of the benchmarks."""
    path = _file_of(module)
    if path is None or path.name != "__init__.py":
        return ""
    return "".join(file.read_text(encoding="utf-8") for file in sorted(path.parent.glob("*.yaml")))


def _file_of(module: str) -> Path | None:
    """The file of a module; found by path, because importing it could need torch."""
    return _files().get(module)


@cache
def _files() -> dict[str, Path]:
    """Every module of this package."""
    places = {path.relative_to(_ROOT.parent).with_suffix(""): path for path in _ROOT.rglob("*.py")}
    return {".".join(place.parts).removesuffix(".__init__"): path for place, path in places.items()}
