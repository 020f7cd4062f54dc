"""Build a task of lm-eval from its file: import its code, find its data, and say in one line what is missing."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import BenchmarkConfig
from lorapar.errors import BadInputError, LoraparError, UnreachableError, nearest
from lorapar.evaluation.benchmarks import squad_metrics
from lorapar.evaluation.benchmarks.known_texts import ROLLING
from lorapar.evaluation.benchmarks.task_files import Code, TaskFile, code_in, wrong

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_STRUCTURE = ("tag", "group", "task_list", "include")
_FILES = ("json", "csv", "parquet", "text", "arrow")
"""Builders of datasets that read files."""
_REASON = 400
"""Characters of a library's reason that are shown."""


def built_task(config: BenchmarkConfig, found: TaskFile) -> Task:
    """The task, its data set read; raises as `build_named`."""
    from lm_eval.api.task import ConfigurableTask

    values = _values(config, found)
    _check_metrics(config, found, values)
    try:
        with _answering_hub(config, values):
            task = _of_class(config, values) if "class" in values else ConfigurableTask(config=values)
        if config.few_shot is not None:
            task.set_config("num_fewshot", config.few_shot)
    except LoraparError:
        raise
    except Exception as error:  # whatever lm-eval and datasets raise about a file, its settings or its data
        whose = "its own code says " if code_in(found.values) else ""
        raise _data_error(config, values, error) or wrong(config, f"{found.path}: {whose}{first_line(error)}") from None
    if getattr(task, "MULTIMODAL", False):
        raise wrong(config, "its rows have images or sound, which this model cannot be asked")
    if str(task.OUTPUT_TYPE) == ROLLING and config.chat:
        raise wrong(config, "it scores plain texts, so it cannot use a chat template; leave chat out")
    return task


def _of_class(config: BenchmarkConfig, values: Mapping[str, Any]) -> Task:
    """A task that is a class of Python instead of fields, made as lm-eval makes it."""
    unread = [name for name in ("overrides", "max_new_tokens") if getattr(config, name)]
    if unread:
        raise wrong(config, f"it is a Python class, which reads no fields of a task file; leave out {unread[0]}")
    made = values["class"]
    takes = "config" in inspect.signature(made.__init__).parameters
    task: Task = made(config=dict(values)) if takes else made()
    task.config.task = values["task"]
    return task


def _data_set(values: Mapping[str, Any]) -> str | None:
    """The name of the data set, which a class knows itself."""
    name = values.get("dataset_path") or getattr(values.get("class"), "DATASET_PATH", None)
    return name if isinstance(name, str) else None


@contextmanager
def _answering_hub(config: BenchmarkConfig, values: Mapping[str, Any]) -> Iterator[None]:
    """Within the block a hub that is silent is not asked again and again: what is in the cache is taken, or nothing."""
    name = _data_set(values)
    if name is None or name in _FILES or Path(name).exists():
        yield
        return
    import datasets
    from huggingface_hub import constants

    from lorapar.basemodel.hub import commit_of

    places = ((datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE"))
    before = [getattr(place, key) for place, key in places]
    try:
        commit_of(name, None, "dataset")
    except UnreachableError:
        for place, key in places:
            setattr(place, key, True)
    except BadInputError as error:
        raise wrong(config, str(error).removeprefix("data.source: ")) from None
    try:
        yield
    finally:
        for (place, key), value in zip(places, before, strict=True):
            setattr(place, key, value)


def _check_metrics(config: BenchmarkConfig, found: TaskFile, values: Mapping[str, Any]) -> None:
    """Refuse a metric that lm-eval lacks: it would look for code of that name on the hub."""
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import metric_registry

    outside = found.folder is not None or "metric_list" in found.changed
    if not outside or values.get("process_results") is not None:
        return
    known = sorted(str(name) for name in metric_registry)
    for one in values.get("metric_list") or ():
        name = one.get("metric") if isinstance(one, dict) else None
        if not callable(name) and name not in known and not (isinstance(one, dict) and one.get("hf_evaluate")):
            raise wrong(
                config,
                f"{found.path}: metric_list: lm-eval has no metric '{name}'{nearest(str(name), known)}; it has: "
                f"{', '.join(known)}",
            )


def _values(config: BenchmarkConfig, found: TaskFile) -> dict[str, Any]:
    """The task file's fields with functions imported, paths of its data made whole, and what the settings change."""
    values: dict[str, Any]
    from lm_eval.tasks._yaml_loader import load_yaml

    squad_metrics.provide()
    try:
        values = load_yaml(found.path, resolve_func=True) if code_in(found.own) else dict(found.own)
        changed = {key: _imported(value, found.changed_in) for key, value in found.changed.items()}
    except Exception as error:
        raise wrong(config, f"{found.path}: {_import_error(error)}") from None
    values = {**values, **changed, "task": found.name}
    values = {name: value for name, value in values.items() if name not in _STRUCTURE} | config.overrides
    kwargs = values.get("dataset_kwargs")
    if isinstance(kwargs, dict) and found.folder is not None:
        beside = {key: _beside(found.path, kwargs[key]) for key in ("data_files", "data_dir") if key in kwargs}
        values["dataset_kwargs"] = {**kwargs, **beside}
    if config.max_new_tokens is not None and values.get("output_type", "generate_until") == "generate_until":
        values["generation_kwargs"] = {
            **(values.get("generation_kwargs") or {}),
            "max_gen_toks": config.max_new_tokens,
        }
    return values


def _imported(value: Any, path: Path | None) -> Any:
    """A value of a group's file with functions in the place of their names."""
    from lm_eval.tasks._yaml_loader import _import_func_in_yml

    if isinstance(value, Code) and path is not None:
        return _import_func_in_yml(value.name, path.parent)
    if isinstance(value, dict):
        return {key: _imported(one, path) for key, one in value.items()}
    return [_imported(one, path) for one in value] if isinstance(value, list) else value


def _beside(path: Path, files: Any) -> Any:
    """Paths of data, taken from the folder of the task file where they are relative and are there."""
    if isinstance(files, dict):
        return {split: _beside(path, one) for split, one in files.items()}
    if isinstance(files, list):
        return [_beside(path, one) for one in files]
    whole = path.parent / str(files)
    return str(whole) if any(path.parent.glob(str(files))) or whole.exists() else files


def _data_error(config: BenchmarkConfig, values: Mapping[str, Any], error: Exception) -> LoraparError | None:
    """What is wrong with the data set, where it is that."""
    name = _data_set(values)
    if isinstance(error, ConnectionError) or type(error).__name__ in ("OfflineModeIsEnabled", "HfHubHTTPError"):
        return UnreachableError(
            f"evaluate.benchmarks: {config.task}: its data set {name} cannot be read here: the hub did not answer; "
            "download it first where there is a network (HF_HOME is its cache), or name a task with files of your own "
            "in task_folder"
        )
    if type(error).__name__ == "UndefinedError":  # of Jinja; lm-eval tries the first row
        return wrong(config, f"row 1: {error}: a template of the task file names a column that the rows lack")
    if isinstance(error, FileNotFoundError) or type(error).__name__.startswith("Dataset"):
        files = (values.get("dataset_kwargs") or {}).get("data_files") if name in _FILES else None
        return wrong(config, f"its data set {files or name} cannot be read: {first_line(error)}")
    return None


def _import_error(error: Exception) -> str:
    """Why a task's code cannot be imported, with what to install where a package is missing."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return f"its code cannot be imported: {first_line(error)}"
    package = missing.partition(".")[0]
    line = re.compile(rf"{re.escape(package)}\b.*extra == [\"']([\w-]+)[\"']", re.IGNORECASE)
    extras = filter(None, map(line.match, importlib.metadata.requires("lm_eval") or ()))
    install = next((f"'lm_eval[{one[1]}]'" for one in extras), package)
    return f"its code needs the Python package {missing}, which is not installed here: pip install {install}"


def first_line(error: BaseException) -> str:
    """What a library's error says, on one line."""
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:_REASON]}" if lines else type(cause).__name__
