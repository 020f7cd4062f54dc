"""`lorapar stage`: one stage by itself, with local folders in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.base import ConfigFile, Overrides, Preset, Store, app, err, out, reporter, settings_of
from lorapar.errors import BadInputError


@app.command("stage")
def stage_command(  # noqa: PLR0913  -- an argument is an option of the command
    name: Annotated[str, typer.Argument(help="Name of the stage, such as `sft`.", autocompletion=complete.stages)],
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="name=FOLDER of an input artifact.")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="name=FOLDER to make an output in.")] = None,
    parameters: Annotated[list[str] | None, typer.Option("--param", help="name=value, such as system=system1.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for unfinished work; found again by a retry.")] = None,
    store: Store = None,
    executor_input: Annotated[
        str | None, typer.Option("--executor-input", help="What Kubeflow puts in place of {{$}}.")
    ] = None,
) -> None:
    """Run one stage with local folders in and out, or as a task of a Kubeflow pipeline.

    Example: `lorapar stage init --preset tiny --output adapter=./adapter`
    """
    if executor_input is not None:
        _run_task(name, executor_input, store, scratch, [preset, config, overrides, inputs, outputs, parameters])
        return
    settings = settings_of(preset, config, overrides, store)
    from lorapar.local.single import StageOptions, run_single

    options = StageOptions.parse(name, inputs or [], outputs or [], parameters or [], scratch)
    for key in options.idle(overrides or []):
        err.say(f"lorapar: --set {key}: the stage {name} does not read it, so it changes nothing here", "yellow")
    with reporter(f"{name}:") as progress:
        record = run_single(settings, options, progress)
    for metric, value in record.metrics.items():
        out.print(f"{metric} = {value:.6g}", markup=False)
    for output, digest in record.outputs.items():
        out.print(f"{output}: {digest}", markup=False)


def _run_task(name: str, executor_input: str, store: str | None, scratch: Path | None, others: list[object]) -> None:
    if any(others):
        raise BadInputError("--executor-input says all: settings, folders and parameters cannot be given beside it")
    from lorapar.kubeflow.executor import run_task

    with reporter(f"{name}:") as progress:
        run_task(name, executor_input, store, scratch, progress)
