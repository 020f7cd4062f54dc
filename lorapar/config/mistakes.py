"""What is wrong with settings that people wrote, in one line: each mistake by its place and its kind, in plain words.

The same for every model of settings: a run's, a study's, a placement file's, a judge's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from lorapar.errors import BadInputError, nearest, nearest_of

Model = type[BaseModel]
M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], values: Any, origin: str, overrides: Sequence[str] = ()) -> M:
    """The settings that `model` describes; raises BadInputError naming each key that is wrong, in one line.

    `overrides`: keys that --set gave on top of `origin`; a mistake in one of them is not the origin's.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInputError(_one_line(error, model, origin, overrides)) from None


def _one_line(error: ValidationError, root: Model, origin: str, overrides: Sequence[str]) -> str:
    """Each mistake as `section.key: what is wrong`, the nearest right key for unknown ones; first whose it is."""
    lines: dict[str, list[str]] = {}
    for place, problem in _causes(error, root):
        path = ".".join(map(str, place)) or "settings"
        if problem["type"] == "extra_forbidden":
            what = f"no such key{nearest(str(place[-1]), _siblings(place[:-1], root))}"
        else:
            what = f"{_complaint(place, problem, root)}{_given(problem)}"
        lines.setdefault(_whose(place, origin, overrides), []).append(f"{path}: {what}")
    return "; ".join(f"{of} {'; '.join(found)}" for of, found in lines.items())


def _whose(place: _Place, origin: str, overrides: Sequence[str]) -> str:
    """Where a mistake comes from: of a section as a whole, from both where --set gave a part of it."""
    path = tuple(map(str, place))
    keys = [tuple(key.split(".")) for key in overrides]
    if any(path[: len(key)] == key for key in keys):
        return "--set"
    return f"{origin} with --set:" if any(key[: len(path)] == path for key in keys) else f"{origin}:"


_Place = tuple[int | str, ...]
_Mistake = tuple[_Place, Mapping[str, Any]]


def _causes(error: ValidationError, root: Model) -> list[_Mistake]:
    """The mistakes without those that only follow from another.

    A list or section whose own member is wrong counts as short of it, and a mistyped key is missing under its right
    name: both would send a person looking for something that is there. Where a setting takes values of several kinds,
    pydantic complains once for each kind.
    """
    problems: list[_Mistake] = [(_place(problem["loc"], root), problem) for problem in error.errors()]
    meant = {
        (*place[:-1], key)
        for place, problem in problems
        if problem["type"] == "extra_forbidden"
        for key in nearest_of(str(place[-1]), _siblings(place[:-1], root))
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


def _place(location: tuple[int | str, ...], root: Model) -> _Place:
    """Where a mistake is, as people write it: without pydantic's names for the kinds of value that a setting takes."""
    place: list[int | str] = []
    kind: Any = root
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
    """What may be under a key, or at a number, of a section, of names with values, or of a list."""
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


def _complaint(place: _Place, problem: Mapping[str, Any], root: Model) -> str:
    """What is wrong with a value; of a number the whole range, of which pydantic names only the end that was passed."""
    interval = _interval(place, root) if place else None
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
    if problem["type"].startswith("date_"):
        return "must be a day such as 2026-11-30"
    if problem["type"] == "invalid-json-value":
        return "must be a value that JSON has; put a date into quotes"
    kind = _KINDS.get(problem["type"])
    if kind is not None:
        return f"must be {kind}" + (f" in {interval}" if interval else "")
    broken = [end for end in _BOUNDS if end in problem.get("ctx", {})]
    if len(broken) == 1:
        return f"must lie in {interval}" if interval else f"must be {_BOUNDS[broken[0]]} {problem['ctx'][broken[0]]:g}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _interval(location: tuple[int | str, ...], root: Model) -> str | None:
    """The range of a setting as mathematics write it, such as (0, 1]; None where it has one end only."""
    field = fields_of(_model_at(location[:-1], root)).get(str(location[-1]))
    bounds = field.metadata if field is not None else ()
    ends = {name: getattr(one, name) for one in bounds for name in _BOUNDS if hasattr(one, name)}
    low, high = ends.get("gt", ends.get("ge")), ends.get("lt", ends.get("le"))
    if low is None or high is None:
        return None
    return f"{'(' if 'gt' in ends else '['}{low:.12g}, {high:.12g}{')' if 'lt' in ends else ']'}"


def _given(problem: Mapping[str, Any]) -> str:
    value = problem.get("input") if problem["type"] != "unshown" else None
    return f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""


def _siblings(location: tuple[int | str, ...], root: Model) -> list[str]:
    """The keys that would have been right at this place of the settings."""
    return list(fields_of(_model_at(location, root)))


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section, as people write them, and their fields."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(location: tuple[int | str, ...], root: Model) -> Model:
    """The section at this place of the settings; that above it where the place is no section."""
    found = root
    for depth in range(1, len(location) + 1):
        kinds = kinds_at(location[:depth], root)
        found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), found)
    return found


def kinds_at(location: Sequence[int | str], root: Model) -> list[Any]:
    """The kinds of value, beside None, that the place of a setting takes; none where there is no such place."""
    kinds: list[Any] = [root]
    for part in location:
        kinds = [inner for kind in kinds for inner in _kinds(_inside(kind, part))]
    return kinds
