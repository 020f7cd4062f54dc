"""Every wrong setting is one complaint that names its place as people write it."""

from __future__ import annotations

import datetime
import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, JsonValue

from lorapar.config import RunConfig, load_config
from lorapar.config.load import validate_settings
from lorapar.errors import BadInputError


class Strange:
    """No kind of value that a setting takes."""


WRONG = (Strange(), 7, "abc", True, [Strange()], [["a"]], {"a": Strange()}, {"weight": "x"}, {7: 7}, datetime.date.min)


def places(annotation: Any, place: tuple[str | int, ...] = (), above: tuple[Any, ...] = ()) -> list[tuple]:
    """Each place of the settings, list items and named values included, and whether it takes several kinds of value."""
    if get_origin(annotation) is Annotated:
        return places(get_args(annotation)[0], place, above)
    if get_origin(annotation) in (Union, UnionType):
        inner = [one for one in get_args(annotation) if one is not type(None)]
        found = [there for one in inner for there in places(one, place, above)]
        return [*found, (place, True)] if len(inner) > 1 else found
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in above:
            return []
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        return [(place, False)] + [
            there for name, one in fields.items() for there in places(one, (*place, name), (*above, annotation))
        ]
    if get_origin(annotation) in (dict, tuple, list):
        inside = [one for one in get_args(annotation) if one is not ...][-1]
        part = "some" if get_origin(annotation) is dict else 0
        return [(place, False), *places(inside, (*place, part), above)]
    return [(place, annotation is JsonValue)]


def nested(place: tuple[str | int, ...], value: Any) -> Any:
    for part in reversed(place):
        value = [value] if part == 0 else {part: value}
    return value


PLACES = [(place, several) for place, several in places(RunConfig) if place]


def test_a_mistake_names_its_place_as_people_write_it_wherever_it_is() -> None:
    """At every place of the settings, and above all where values of several kinds are taken (a layout, a reward)."""
    assert {place for place, several in PLACES if several} >= {("adapter", "layout"), ("rl", "rewards", "some")}
    words = {str(part) for place, _ in PLACES for part in place} | {"a", "weight", "1", "7", "settings"}
    message = 0
    for place, _ in PLACES:
        for value in WRONG:
            try:
                validate_settings(nested(place, value), "here")
            except BadInputError as error:
                line, message = str(error), message + 1
                assert "\n" not in line
                for complaint in line.removeprefix("here: ").split("; "):
                    path = re.match(r"([^\s:]+): ", complaint)
                    assert path is None or set(path[1].split(".")) <= words, line
                assert not re.search(r"Input should|Field required|function-|Value error|\[str", line), line
    assert message > 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.rewards.mine=high", "rl.rewards.mine: must be a number or a section, which is written as {key: value}"),
        ("rl.rewards.tag_count={weight: much}", "rl.rewards.tag_count.weight: must be a number (got 'much')"),
        ("rl.rewards.q={judge: {endpoint: 'http://a/v1'}}", "rl.rewards.q.judge.model: is missing"),
        ("rl.rewards.q={jugde: {}}", "rl.rewards.q.jugde: no such key (did you mean 'judge'?)"),
        (
            "rl.rewards.q={judge: {endpoint: 'http://a/v1', model: m}, reward_model: {name: n}}",
            "rl.rewards.q: reward_model and judge exclude each other; make two rewards of them",
        ),
        ("adapter.layout=5", "adapter.layout: must be a text or a list (got 5)"),
        ("adapter.layout=[q_proj, 5]", "adapter.layout.1: must be a text (got 5)"),
        ("model.dtype=int8", "model.dtype: must be 'auto', 'float32', 'bfloat16' or 'float16' (got 'int8')"),
        (
            "model.chat_template_kwargs={today: {is: [2026-11-28]}}",
            "model.chat_template_kwargs.today.is.0: must be a value that JSON has; put a date into quotes",
        ),
    ],
)
def test_where_values_of_several_kinds_are_taken_the_complaint_is_of_the_kind_given(override, message) -> None:
    with pytest.raises(BadInputError) as caught:
        load_config(overrides=[override])
    assert str(caught.value).removeprefix("--set ") in (message, f"{message} (got 'high')")
