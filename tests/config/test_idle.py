"""Settings that would do nothing: those that are surely a mistake are refused, all others said in one line."""

from typing import Any

import pytest

from lorapar.config import RunConfig, validate_settings
from lorapar.config.idle import without_effect
from lorapar.errors import BadInputError

NAMED = {
    "systems": [{"name": "recall", "description": "a fact"}, {"name": "sums", "description": "steps", "shared": 0.5}],
    "data": {"source": "rows.jsonl"},
}
RECALL, SUMS = {"system": "recall", "method": "sft"}, {"system": "sums", "method": "rl"}


def read(values: dict[str, Any]) -> RunConfig:
    return validate_settings(values, "x.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partition": {"choose": {}}}, "partition: choose: {} names no method"),
        (
            {"partition": {"choose": {"sft": "random", "rl": "random"}}, "phases": ["sft"]},
            "partition.choose: names rl, and no phase trains by it; leave rl out",
        ),
        ({"partition": {"choose": {"sft": "random"}}, "phases": ["rl"]}, "names sft"),
        (
            {**NAMED, "phases": [RECALL], "partition": {"choose": {"rl": "random"}}},
            "names rl",
        ),
    ],
)
def test_a_choice_for_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as refused:
        read(values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("choose", [{"sft": "random"}, {"rl": "random"}, "random"])
def test_a_choice_for_a_method_that_trains_is_taken(choose: Any) -> None:
    assert read({"partition": {"choose": choose}}).partition.choose == choose


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"score": {"examples": 7}, "partition": {"alpha": 0.5, "beta": 0.5}}, None),
        ({**NAMED, "phases": [RECALL, SUMS]}, None),
        (
            {"adapter": {"kind": "ia3"}, "score": {"examples": 7, "max_length": 64}},
            "score.examples, score.max_length: no effect, with adapter.kind ia3",
        ),
        ({"adapter": {"kind": "ia3"}, "score": {"examples": 100}}, None),
        (
            {**NAMED, "phases": [RECALL, SUMS], "adapter": {"kind": "dora"}},
            "systems[].shared of sums: no effect, with adapter.kind dora",
        ),
        ({**NAMED, "phases": [RECALL]}, "systems[].shared of sums: no effect, because no phase trains it"),
        (
            {"partition": {"alpha": 0.5}, "phases": ["rl"]},
            "partition.alpha: no effect, because no phase trains system1",
        ),
        ({"partition": {"beta": 0.5}, "phases": ["sft"]}, "partition.beta: no effect"),
        ({"partition": {"beta": 0.5}, "phases": ["rl"]}, None),
        (
            {"partition": {"alpha": 0.5, "beta": 0.5, "mask": "sft"}},
            "partition.beta: no effect, because partition.mask sft lets rl train all",
        ),
        ({"partition": {"alpha": 0.5, "mask": "rl"}}, "partition.alpha: no effect"),
        ({"partition": {"alpha": 0.5, "mask": "sft"}}, None),
    ],
)
def test_what_does_nothing_is_reported_once(values: dict[str, Any], message: str | None) -> None:
    lines = without_effect(read(values))
    assert len(lines) == (message is not None)
    assert message is None or lines[0].startswith(message)


def test_a_phase_that_repeats_its_section_is_reported_key_by_key() -> None:
    phases: list[dict[str, Any]] = [
        {"system": "system1", "method": "sft", "settings": {"learning_rate": 2e-4, "epochs": 3}},
        {"system": "system2", "method": "rl", "settings": {"filter": {"samples": 6, "low": 0.2}, "epochs": 1}},
    ]
    lines = without_effect(read({"phases": phases, "rl": {"filter": {"samples": 6}}}))
    assert lines == [
        "phases[0].settings: learning_rate: no effect, the section sft says the same; leave out",
        "phases[1].settings: filter.samples, epochs: no effect, the section rl says the same; leave out",
    ]
    del phases[0]["settings"]["learning_rate"]
    phases[1]["settings"] = {"filter": {"low": 0.2}}
    assert without_effect(read({"phases": phases, "rl": {"filter": {"samples": 6}}})) == []


def test_a_switch_of_a_phase_that_needs_its_other_settings_is_no_repetition() -> None:
    """Two settings of which one cannot be without the other: taken away alone, neither says that it does nothing."""
    own = {"batch_size": 6, "num_generations": 3}
    phases = [{"system": "system1", "method": "sft"}, {"system": "system2", "method": "rl", "settings": own}]
    assert without_effect(read({"phases": phases})) == []
