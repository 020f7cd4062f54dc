"""Task files of lm-eval by the name of their task: read without running anything, and looked through for code.

A group or a tag is read as the tasks that it stands for. Needs neither torch nor the import of lm_eval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorapar.config import BenchmarkConfig
from lorapar.errors import BadInputError, nearest
from lorapar.evaluation.benchmarks.task_index import Names, names_in

GROUP_FIELDS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata")
"""Fields of a group itself; every other one in its file is set in each of its tasks."""
_RUNS_ANSWERS = "code_eval"


@dataclass(frozen=True)
class Code:
    """A function that a task file names: `module.function` beside the file, or anywhere in Python."""

    name: str


@dataclass(frozen=True)
class TaskFile:
    """What a task file says, those that it includes with it; functions as `Code`."""

    name: str
    path: Path
    own: dict[str, Any]
    """Fields of the file; none of a task that a group defines within itself."""
    changed: dict[str, Any] = field(default_factory=dict)
    """Fields that a group sets otherwise."""
    changed_in: Path | None = None
    """File of that group."""
    folder: str | None = None
    """`task_folder` that it comes from; None: of lm-eval's own."""

    @property
    def values(self) -> dict[str, Any]:
        """All fields."""
        return self.own | self.changed


@dataclass(frozen=True)
class GroupFile:
    """A group with its tasks and groups; of a tag there is no file, and no field."""

    name: str
    path: Path | None
    values: dict[str, Any]
    """The fields of GROUP_FIELDS but for its members."""
    members: tuple[TaskFile | GroupFile, ...]

    def tasks(self) -> dict[str, TaskFile]:
        """By name all tasks, those of groups in it too; one that is there twice counts once."""
        found: dict[str, TaskFile] = {}
        for member in self.members:
            for one in [member] if isinstance(member, TaskFile) else member.tasks().values():
                found.setdefault(one.name, one)
        return found


def find_task(config: BenchmarkConfig) -> TaskFile | GroupFile:
    """The file of a task by name, or what a group or tag stands for.

    Raises BadInputError where there is none, or it must not be run; ModuleNotFoundError where the task is lm-eval's and
    that is not installed.
    """
    folder = None if config.task_folder is None else Path(config.task_folder).expanduser()
    if folder is not None and not folder.is_dir():
        what = "is a file; give the folder that it is in" if folder.exists() else "is no folder"
        raise wrong(config, f"task_folder {folder} {what}")
    places = [names_in(folder)]
    if not places[0].get(config.task):
        raise wrong(config, _unknown(config, places[0]))
    found = _Search(config, places).find(config.task, {}, None, ())
    for one in [found] if isinstance(found, TaskFile) else found.tasks().values():
        _check_safe(config, one)
    return found


def code_in(value: Any) -> list[str]:
    """Functions and classes that are named anywhere in a value."""
    return sorted({one.name for one in _walk(value) if isinstance(one, Code)})


def wrong(config: BenchmarkConfig, what: str) -> BadInputError:
    """The error of a benchmark by name."""
    return BadInputError(f"evaluate.benchmarks: {config.task}: {what}")


def _unknown(config: BenchmarkConfig, names: Names) -> str:
    tasks = sorted(names)
    if config.task_folder is None:
        return (
            f"lm-eval has no task of this name{nearest(config.task, tasks)}; `lm_eval ls tasks` lists all, and "
            "task_folder names a folder with task files of your own"
        )
    if not tasks:
        return f"{config.task_folder} holds no task file: a .yaml file with a line `task: NAME`"
    shown = ", ".join(tasks[:20])
    return f"no task file in {config.task_folder} has this name{nearest(config.task, tasks)}; it has: {shown}"


class _Search:
    """Follows a name to its tasks: through a folder first, for members of its groups through lm-eval's own then."""

    def __init__(self, config: BenchmarkConfig, places: list[Names]) -> None:
        self._config = config
        self._places = places

    def find(
        self, name: str, changed: dict[str, Any], changed_in: Path | None, above: tuple[str, ...]
    ) -> TaskFile | GroupFile:
        """What a name stands for, with fields that the groups above set otherwise."""
        if name in above:
            raise wrong(self._config, f"group {name} holds itself")
        names, folder = self._place_of(name, above)
        kinds = names[name]
        if "task" in kinds:
            first, *others = kinds["task"]
            if others and folder is not None:
                raise wrong(self._config, f"{first} and {others[0]} both have task {name}; give one another name")
            return TaskFile(name, first, _read(self._config, first, ()), changed, changed_in, folder)
        if "group" in kinds:
            values = _read(self._config, kinds["group"][0], ())
            return self._group(name, values, changed, kinds["group"][0], (*above, name))
        tasks = sorted(task for task, its in names.items() if set(its.get("task", ())) & set(kinds["tag"]))
        found = (self.find(task, changed, changed_in, (*above, name)) for task in tasks)
        return GroupFile(name, None, {}, tuple(found))

    def _place_of(self, name: str, above: tuple[str, ...]) -> tuple[Names, str | None]:
        folder = self._config.task_folder
        if name not in self._places[0] and folder is not None and len(self._places) == 1:
            self._places.append(names_in(None))
        for number, names in enumerate(self._places):
            if name in names:
                return names, folder if number == 0 else None
        known = [one for names in self._places for one in names]
        raise wrong(self._config, f"group {above[-1]} names {name}, which is not a task{nearest(name, known)}")

    def _group(
        self, name: str, values: dict[str, Any], changed: dict[str, Any], path: Path, above: tuple[str, ...]
    ) -> GroupFile:
        """A group whose fields are read; `changed` wins over what it sets in its tasks itself, as in lm-eval."""
        listed = values.get("task")
        if not isinstance(listed, list) or not listed:
            raise wrong(self._config, f"{path}: group {name} names no task; list them under `task:`")
        passed = {key: value for key, value in values.items() if key not in GROUP_FIELDS and key != "tag"} | changed
        members = tuple(self._member(one, passed, path, above) for one in listed)
        return GroupFile(name, path, {key: values[key] for key in GROUP_FIELDS if key in values}, members)

    def _member(self, one: Any, passed: dict[str, Any], path: Path, above: tuple[str, ...]) -> TaskFile | GroupFile:
        if isinstance(one, Mapping) and "group" in one and not self._known(str(one["group"])):
            return self._group(f"{above[-1]}::{one['group']}", dict(one), passed, path, (*above, str(one["group"])))
        fields = {str(key): value for key, value in one.items()} if isinstance(one, Mapping) else {}
        name = one if isinstance(one, str) else fields.pop("group", None) or fields.pop("task", None)
        if not isinstance(name, str):
            raise wrong(self._config, f"{path}: a member of group {above[-1]} is {one!r:.60}; give a task's name")
        changed = passed | fields
        if set(fields) - {"task_alias"} and not self._known(name):  # is defined here
            return TaskFile(f"{above[-1]}::{name}", path, {}, changed, path, self._config.task_folder)
        return self.find(name, changed, path if changed else None, above)

    def _known(self, name: str) -> bool:
        return any(name in names for names in (*self._places, *self._library()))

    def _library(self) -> list[Names]:
        return [] if self._config.task_folder is None else [names_in(None)]


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
        raise wrong(config, f"{path}{line}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if not isinstance(values, dict):
        raise wrong(config, f"{path} is not a YAML mapping, which a task file has to be")
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
    outside = found.values if found.folder is not None else found.changed
    path = found.changed_in if found.folder is None or code_in(found.changed) else found.path
    code, metrics = code_in(outside), {**outside, **config.overrides}.get("metric_list") or []
    if code:
        raise wrong(
            config,
            f"{path} runs Python code from outside lorapar ({', '.join(code[:3])}); read it, then set "
            "trust_code: true for this benchmark",
        )
    if any(isinstance(one, dict) and one.get("hf_evaluate") for one in metrics):
        raise wrong(config, f"{path} runs a metric's code from the hub (hf_evaluate); trust_code: true allows it")


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(one)


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's tag for functions, which are named and not imported."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Code:
    return Code(str(loader.construct_scalar(node)))


_Loader.add_constructor("!function", _function)
