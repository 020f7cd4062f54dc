"""Read a run's settings: a preset or a YAML file, then `--set section.key=value` on top; every mistake in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from lorapar.config.run import RunConfig
from lorapar.errors import BadInputError, nearest, nearest_of

_PRESETS = "lorapar.presets"


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    files = resources.files(_PRESETS).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset; raises BadInputError with the nearest right name."""
    known = preset_names()
    if name not in known:
        raise BadInputError(f"--preset: no preset is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return resources.files(_PRESETS).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def preset_summary(name: str) -> str:
    """What a preset is for: the first line of its file after the one for editors."""
    lines = (line for line in preset_text(name).splitlines() if "yaml-language-server" not in line)
    return next(lines).removeprefix("# ")


def load_config(*, preset: str | None = None, file: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Settings from a preset or a file, with `section.key=value` overrides; raises BadInputError in one line."""
    if preset is not None and file is not None:
        raise BadInputError("--preset and --config exclude each other; give one of them")
    origin = str(file) if file is not None else f"preset {preset}" if preset is not None else "the defaults"
    text = _read(file) if file is not None else preset_text(preset) if preset is not None else ""
    values = parse_settings(text, origin)
    for override in overrides:
        apply_override(values, override)
    return validate_settings(values, origin)


def dump_config(config: BaseModel) -> str:
    """YAML of the settings, every default written out, in the order of the sections."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def dump_changed(config: BaseModel) -> str:
    """YAML of the settings that are not at their defaults: read again, it gives the same settings."""
    changed = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=100)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInputError(f"--config: there is no file {file}") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"--config: {file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise BadInputError(f"--config: {file} cannot be read: {error.strerror}") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise BadInputError(f"--config: {file} has no settings in it; for a run with the defaults write {{}} into it")
    return text


def parse_settings(text: str, origin: str) -> dict[str, Any]:
    """The values of a YAML text; `origin` is what errors call it. Raises BadInputError with the line."""
    try:
        values = _unique(text, origin)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInputError(f"{origin}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise BadInputError(f"{origin}: expected sections such as 'model:', got {type(values).__name__}")
    return values


def _unique(text: str, origin: str) -> Any:
    """The values of a YAML text; of a key that is there twice, YAML would silently take the last."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}
        for key in _repeated(root):
            line = key.start_mark.line + 1
            raise BadInputError(f"{origin}, line {line}: the key '{key.value}' is there twice; keep one of them")
        return loader.construct_document(root) or {}
    finally:
        loader.dispose()


def _repeated(node: yaml.Node) -> Iterator[yaml.Node]:
    """Keys that their own mapping has had before."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` into the values; raises BadInputError for what is not of this form."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadInputError(f"--set {override}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        value = _number(value)
    target = values
    for depth, part in enumerate(parts[:-1], 1):
        target = target.setdefault(part, _named_values(parts[:depth]))
        if not isinstance(target, dict):
            raise BadInputError(f"--set {key}: '{part}' is not a section")
    target[parts[-1]] = value


def _named_values(path: list[str]) -> dict[str, Any]:
    """The default of a setting that is itself names and values (`rl.rewards`): setting one of them keeps the others."""
    model: Any = RunConfig
    for part in path[:-1]:
        field = fields_of(model).get(part) if model is not None else None
        model = _model_of(field.annotation) if field is not None else None
    field = fields_of(model).get(path[-1]) if model is not None else None
    return dict(field.default) if field is not None and isinstance(field.default, dict) else {}


def _number(text: str) -> str | float:
    """YAML 1.1 reads 2e-4 as text; people mean the number."""
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else text
    except ValueError:
        return text


def validate_settings(values: Mapping[str, Any], origin: str) -> RunConfig:
    """The settings; raises BadInputError naming each key that is unknown or wrong, in one line."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise BadInputError(f"{origin}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    """Each mistake as `section.key: what is wrong`, the nearest right key for unknown ones."""
    lines = []
    for place, problem in _causes(error):
        path = ".".join(map(str, place)) or "settings"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{path}: no such key{nearest(str(place[-1]), _siblings(place[:-1]))}")
        else:
            lines.append(f"{path}: {_complaint(place, problem)}{_given(problem)}")
    return "; ".join(lines)


_Place = tuple[int | str, ...]
_Mistake = tuple[_Place, Mapping[str, Any]]


def _causes(error: ValidationError) -> list[_Mistake]:
    """The mistakes without those that only follow from another.

    A list or section whose own member is wrong counts as short of it, and a mistyped key is missing under its right
    name: both would send a person looking for something that is there. Where a setting takes values of several kinds,
    pydantic complains once for each kind.
    """
    problems: list[_Mistake] = [(_place(problem["loc"]), problem) for problem in error.errors()]
    meant = {
        (*place[:-1], key)
        for place, problem in problems
        if problem["type"] == "extra_forbidden"
        for key in nearest_of(str(place[-1]), _siblings(place[:-1]))
    }
    there: dict[_Place, list[Mapping[str, Any]]] = {}
    for place, problem in problems:
        follows = any(len(other) > len(place) and other[: len(place)] == place for other, _ in problems)
        if not follows and not (problem["type"] == "missing" and place in meant):
            there.setdefault(place, []).append(problem)
    return [(place, problem) for place, found in there.items() for problem in _of_one_place(found)]


def _of_one_place(problems: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of several kinds that a value could have been, the mistakes of the kind it is; of none, all kinds in one."""
    others = [problem for problem in problems if problem["type"] not in _KINDS]
    if others or len(problems) == 1:
        return others or problems
    kinds = dict.fromkeys(_KINDS[problem["type"]] for problem in problems)
    return [{"type": "kinds", "msg": f"must be {' or '.join(kinds)}", "input": problems[0]["input"]}]


def _place(location: tuple[int | str, ...]) -> _Place:
    """Where a mistake is, as people write it: without pydantic's names for the kinds of value that a setting takes."""
    place: list[int | str] = []
    kind: Any = RunConfig
    for part in location:
        kinds = _kinds(kind)
        if len(kinds) > 1:
            kind = next((one for one in kinds if _is_called(one, str(part))), None)
        elif part != "[key]":
            place.append(part)
            kind = _inside(kinds[0], part) if kinds else None
    return tuple(place)


def _is_called(kind: Any, name: str) -> bool:
    """Whether pydantic calls a kind of value so: `float`, `tuple[str, ...]`, `function-after[check(), Section]`."""
    bare = name.rpartition("(), ")[2].removeprefix("constrained-")
    return re.split(r"\W", bare)[0] == getattr(get_origin(kind) or kind, "__name__", None)


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of value that an annotation allows beside None."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if annotation is JsonValue:
        return [str, list[JsonValue], dict[str, JsonValue]]
    if get_origin(annotation) in (Union, UnionType):
        return [kind for one in get_args(annotation) if one is not type(None) for kind in _kinds(one)]
    return [annotation] if annotation is not None else []


def _inside(kind: Any, part: int | str) -> Any:
    """What may stand under a key, or at a number, of a section, of names with values, or of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = fields_of(kind).get(str(part))
        return field.annotation if field is not None else None
    arguments = [one for one in get_args(kind) if one is not ...]
    if get_origin(kind) is tuple and isinstance(part, int):
        return arguments[min(part, len(arguments) - 1)]
    return arguments[-1] if get_origin(kind) in (dict, list) else None


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_SECTION = "a section, which is written as {key: value}"
_KINDS = {
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type"), _SECTION),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "a text",
    "dict_type": "names with values, which are written as {name: value}",
}
"""What a value should have been, by pydantic's name for its being of another kind."""


def _complaint(place: _Place, problem: Mapping[str, Any]) -> str:
    """What is wrong with a value; of a number the whole range, of which pydantic names only the end that was passed."""
    interval = _interval(place) if place else None
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "is a section: give its settings as {key: value}, or one as section.key=value"
    if problem["type"] == "too_short":
        return f"needs at least {problem['ctx']['min_length']}"
    if problem["type"] == "too_long":
        return f"takes at most {problem['ctx']['max_length']}"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "literal_error":
        return f"must be {problem['ctx']['expected']}"
    if problem["type"] == "invalid-json-value":
        return "must be a value that JSON has; put a date into quotes"
    kind = _KINDS.get(problem["type"])
    if kind is not None:
        return f"must be {kind}" + (f" in {interval}" if interval else "")
    broken = [end for end in _BOUNDS if end in problem.get("ctx", {})]
    if len(broken) == 1:
        return f"must lie in {interval}" if interval else f"must be {_BOUNDS[broken[0]]} {problem['ctx'][broken[0]]:g}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _interval(location: tuple[int | str, ...]) -> str | None:
    """The range of a setting as mathematics write it, such as (0, 1]; None where it has one end only."""
    field = fields_of(_model_at(location[:-1])).get(str(location[-1]))
    bounds = field.metadata if field is not None else ()
    ends = {name: getattr(one, name) for one in bounds for name in _BOUNDS if hasattr(one, name)}
    low, high = ends.get("gt", ends.get("ge")), ends.get("lt", ends.get("le"))
    if low is None or high is None:
        return None
    return f"{'(' if 'gt' in ends else '['}{low:.12g}, {high:.12g}{')' if 'lt' in ends else ']'}"


def _given(problem: Mapping[str, Any]) -> str:
    value = problem.get("input") if problem["type"] != "unshown" else None
    return f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """The keys that would have been right at this place of the settings."""
    return list(fields_of(_model_at(location)))


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section, as people write them, and their fields."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section at this place of the settings; that above it where the place is no section."""
    found: type[BaseModel] = RunConfig
    kinds: list[Any] = [RunConfig]
    for part in location:
        kinds = [inner for kind in kinds for inner in _kinds(_inside(kind, part))]
        found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), found)
    return found


def _model_of(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
