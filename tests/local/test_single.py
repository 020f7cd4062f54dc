"""`lorapar stage NAME` takes no option that would do nothing: each mistake is one line before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.local.single import StageOptions


def parsed(stage: str, *, outputs: tuple[str, ...] = (), parameters: tuple[str, ...] = ()) -> StageOptions:
    return StageOptions.parse(stage, [], outputs, parameters, None)


@pytest.mark.parametrize(
    ("stage", "parameter", "message"),
    [
        ("plan", "x=1", "--param x: plan has no such parameter; it has: accelerators"),
        ("plan", "acelerators=true", "did you mean 'accelerators'"),
        ("plan", "config=mine.yaml", "--param config: plan takes it from the settings; give --preset NAME or --config"),
        ("plan", "model.name=x", "--param model.name: plan has no such parameter"),
        ("plan", "name=x", "--param name: plan takes it from the settings; give --set name=x"),
        ("init", "seed=1", "--param seed: init takes it from the settings; give --set seed=1"),
        ("init", "x=1", "--param x: init has no such parameter; it has: none"),
        ("plan", "accelerators=[", "--param accelerators=[: not YAML"),
    ],
)
def test_a_parameter_that_a_stage_does_not_have_is_refused(stage: str, parameter: str, message: str) -> None:
    output = "plan=made" if stage == "plan" else "adapter=made"
    with pytest.raises(BadInputError) as refused:
        parsed(stage, outputs=(output,), parameters=(parameter,))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("outputs", "parameters", "message"),
    [
        (("plan=a", "plan=b"), (), "--output plan: is given 2 times"),
        (("plan=a",), ("accelerators=true", "accelerators=false"), "--param accelerators: is given 2 times"),
    ],
)
def test_what_is_given_twice_is_refused_instead_of_forgotten(
    outputs: tuple[str, ...], parameters: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        parsed("plan", outputs=outputs, parameters=parameters)


def test_a_parameter_of_plan_is_read(tmp_path: Path) -> None:
    given = ["stage", "plan", "--preset", "tiny", "--output", f"plan={tmp_path / 'plan'}"]
    result = CliRunner().invoke(app, [*given, "--param", "accelerators=maybe"])
    assert "--param accelerators=maybe: Input should be a valid boolean" in str(result.exception)
    assert CliRunner().invoke(app, [*given, "--param", "accelerators=false"]).exit_code == 0
    assert (tmp_path / "plan" / "plan.json").is_file()


@pytest.mark.parametrize(
    ("stage", "overrides", "idle"),
    [
        ("partition", ["rl.learning_rate=1e-6", "partition.theta=0.5"], ["rl.learning_rate"]),
        ("plan", ["rl.learning_rate=1e-6"], []),
        ("init", ["checkpoint.keep=3", "store.address=x", "seed=1"], []),
    ],
)
def test_settings_that_a_stage_does_not_read_are_named(stage: str, overrides: list[str], idle: list[str]) -> None:
    made = {"partition": ("partition",), "plan": ("plan",), "init": ("adapter",)}[stage]
    inputs = ["scores=a", "scores=b"] if stage == "partition" else []
    options = StageOptions.parse(stage, inputs, [f"{name}=made" for name in made], [], None)
    assert options.idle(overrides) == idle
