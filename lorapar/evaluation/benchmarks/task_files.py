"""Task files of lm-eval by the name of their task: found, read without running anything, and looked through for code.

lm-eval reads all its 14,000 files to find one; here names are found in their text first. Needs neither torch nor the
import of lm_eval.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from lorapar.config import BenchmarkConfig
from lorapar.errors import BadInputError, nearest

_NAMED = re.compile(r"^(task|group|tag):[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9._-]*)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)
_LEFT_OUT = {"__pycache__", ".ipynb_checkpoints"}
_RUNS_ANSWERS = "code_eval"


@dataclass(frozen=True)
class Code:
    """A function that a task file names: `module.function` beside the file, or anywhere in Python."""

    name: str


@dataclass(frozen=True)
class TaskFile:
    """What a task file says, those that it includes with it; functions as `Code`."""

    path: Path
    values: dict[str, Any]

    @property
    def code(self) -> list[str]:
        """Functions and classes that asking the task would run."""
        return sorted({one.name for one in _walk(self.values) if isinstance(one, Code)})


def find_task(config: BenchmarkConfig) -> TaskFile:
    """The file of a task by name; raises BadInputError where there is none, or it must not be run.

    Raises ModuleNotFoundError where the task is lm-eval's and that is not installed.
    """
    folder = None if config.task_folder is None else Path(config.task_folder).expanduser()
    place = _library() if folder is None else folder
    if folder is not None and not folder.is_dir():
        what = "is a file; name the folder that it lies in" if folder.exists() else "is no folder"
        raise wrong(config, f"task_folder {folder} {what}")
    paths = _names(config, place).get(config.task, {})
    if "task" not in paths:
        raise wrong(config, _unknown(config, place, paths))
    first, *others = paths["task"]
    if others and folder is not None:
        raise wrong(config, f"{first} and {others[0]} both have this task; give one of them another name")
    found = TaskFile(first, _read(config, first, ()))
    _check_safe(config, found)
    return found


def wrong(config: BenchmarkConfig, what: str) -> BadInputError:
    """The error of a benchmark by name."""
    return BadInputError(f"evaluate.benchmarks: {config.task}: {what}")


def _unknown(config: BenchmarkConfig, place: Path, paths: dict[str, list[Path]]) -> str:
    names = _names(config, place)
    tasks = sorted(name for name, kinds in names.items() if "task" in kinds)
    if paths:
        kind = next(iter(paths))
        return f"is a {kind} of several tasks; name each by itself{_members(config, kind, paths[kind][0])}"
    if config.task_folder is None:
        return (
            f"lm-eval has no task of this name{nearest(config.task, tasks)}; `lm_eval ls tasks` lists all, and "
            "task_folder names a folder with task files of your own"
        )
    if not tasks:
        return f"{place} holds no task file: a .yaml file with a line `task: NAME`"
    return f"no task file in {place} has this name{nearest(config.task, tasks)}; it has: {', '.join(tasks[:20])}"


def _members(config: BenchmarkConfig, kind: str, path: Path) -> str:
    """The first tasks of a group, or the one file that was seen to have a tag."""
    values = _read(config, path, ())
    if kind == "tag":
        return f", such as {values.get('task')}"
    members = values.get("task")
    named = [one if isinstance(one, str) else one.get("task") for one in members or () if isinstance(one, str | dict)]
    shown = ", ".join(str(one) for one in named[:5] if one)
    return f": {shown}{', ...' if len(named) > 5 else ''}" if shown else ""


def _library() -> Path:
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")
    return Path(next(iter(found.submodule_search_locations))) / "tasks"


Names = dict[str, dict[str, list[Path]]]
"""By name and kind (task, group, tag) the files that say it."""


def _names(config: BenchmarkConfig, place: Path) -> Names:
    """Those of lm-eval are read once a process."""
    return _names_of_library(place) if config.task_folder is None else _scan(place)


@cache
def _names_of_library(place: Path) -> Names:
    return _scan(place)


def _scan(place: Path) -> Names:
    found: Names = {}
    for path in sorted(place.rglob("*.yaml")):
        if not _LEFT_OUT.intersection(path.parts):
            for kind, name in _NAMED.findall(path.read_text(encoding="utf-8", errors="replace")):
                found.setdefault(name, {}).setdefault(kind, []).append(path)
    return found


def _read(config: BenchmarkConfig, path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file with what it includes; its own fields win."""
    if path in above:
        raise wrong(config, f"{path} includes itself")
    try:
        values = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 - a SafeLoader with one more tag
    except OSError as error:
        raise wrong(config, f"{above[-1] if above else path} includes {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise wrong(config, f"{path}{line}: {getattr(error, 'problem', None) or 'no YAML'}") from None
    if not isinstance(values, dict):
        raise wrong(config, f"{path} holds no fields; a task file is a YAML mapping")
    includes = values.pop("include", [])
    merged: dict[str, Any] = {}
    for one in includes if isinstance(includes, list) else [includes]:
        merged |= _read(config, path.parent / str(one), (*above, path))
    return {**merged, **values}


def _check_safe(config: BenchmarkConfig, found: TaskFile) -> None:
    """Refuse code from outside that nobody allowed, and tasks that would run what a model has written."""
    values = {**found.values, **config.overrides}
    metrics = values.get("metric_list") or []
    runs = [one for one in metrics if isinstance(one, dict) and one.get("metric") == _RUNS_ANSWERS]
    if values.get("unsafe_code") or runs:
        raise wrong(
            config, f"{found.path.name} runs code that the model writes outside a sandbox; humaneval is run in one"
        )
    if config.task_folder is None or config.trust_code:
        return
    if found.code:
        raise wrong(
            config,
            f"{found.path} runs Python code from outside lorapar ({', '.join(found.code[:3])}); read it, then set "
            "trust_code: true for this benchmark",
        )
    if any(isinstance(one, dict) and one.get("hf_evaluate") for one in metrics):
        raise wrong(config, f"{found.path} runs a metric's code from the hub (hf_evaluate); trust_code: true allows it")


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(one)


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's tag for functions, which are named and not imported."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Code:
    return Code(str(loader.construct_scalar(node)))


_Loader.add_constructor("!function", _function)
