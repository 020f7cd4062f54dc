"""`lorapar run`, `plan`, `stage` and `gate`: the stages on this machine, what they would do, one, the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.base import (
    AsJson,
    ConfigFile,
    Fresh,
    OutDir,
    Overrides,
    Preset,
    Store,
    Until,
    app,
    err,
    out,
    out_dir_of,
    reporter,
    settings_of,
    show_document,
)
from lorapar.errors import BadInputError, ExitCode

if TYPE_CHECKING:
    from lorapar.config import RunConfig


@app.command("run")
def run_command(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out_dir: OutDir = None,
    store: Store = None,
    until: Until = None,
    fresh: Fresh = False,
) -> None:
    """Run every stage on this machine into one folder; a second run continues and reuses what is unchanged.

    Examples: `lorapar run --preset demo`, `lorapar run --config mine.yaml --out runs/mine --until score`
    """
    settings = settings_of(preset, config, overrides, store)
    _refuse_beside(settings, config)
    from lorapar.local.runner import run_local
    from lorapar.report.terminal import closing_table, warning_lines

    folder = run_local(settings, out_dir_of(settings, out_dir), reporter, until=until, fresh=fresh)
    metrics = folder.root / "metrics.json"
    if metrics.is_file():
        out.print(closing_table(metrics))
        for line in warning_lines(metrics):
            err.print_line(f"lorapar: warning: {line}", "yellow")
    out.print(f"report: {folder.root / 'report.html'}", markup=False, soft_wrap=True)
    if (folder.root / "adapter").is_dir() and until is None:
        out.print(f"adapter: {folder.root / 'adapter'}", markup=False, soft_wrap=True)


@app.command("plan")
def plan_command(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out_dir: OutDir = None,
    until: Until = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Say what `run` would do: stages that run or are reused (without a look into a store), memory, teacher calls, and
    hours by earlier runs of the same shape, of which the store is asked.

    Examples: `lorapar plan --preset demo`, `lorapar plan --config mine.yaml --set rl.max_steps=40`
    """
    settings = settings_of(preset, config, overrides)
    _refuse_beside(settings, config)
    from lorapar.local.planning import plan_run, plan_table

    planned = plan_run(settings, out_dir_of(settings, out_dir), until=until, fresh=fresh)
    if as_json:
        from lorapar.cli.fill_documents import plan_document

        show_document(plan_document(planned))
        return
    out.print(plan_table(planned))


def _refuse_beside(settings: RunConfig, file: Path | None) -> None:
    from lorapar.data.source import refuse_beside

    if file is not None:
        refuse_beside(settings.data, file)


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
        err.print_line(f"lorapar: --set {key}: the stage {name} does not read it, so it changes nothing here", "yellow")
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


@app.command("gate")
def gate_command(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: AsJson = False) -> None:
    """Print the verdict of a finished run; the exit code is 0 if the adapter is better, 10 if it is not.

    Examples: `lorapar gate runs/demo`, `lorapar gate runs/demo --json`
    """
    from lorapar.local.folder import RunFolder
    from lorapar.local.results import current_verdict
    from lorapar.report.metrics import verdict_lines
    from lorapar.store import storage_errors

    if not (folder / "stages").is_dir():
        raise BadInputError(f"{folder}: not a run folder; start one with `lorapar run`")
    with storage_errors(folder):
        verdict = current_verdict(RunFolder(folder))
    if verdict is None:
        raise BadInputError(f"{folder}: no verdict of its last settings in it; let `lorapar run` finish first")
    if as_json:
        from lorapar.cli.documents import GateDocument

        show_document(GateDocument.model_validate(verdict))
    for line in [] if as_json else verdict_lines(verdict):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not verdict["better"]:
        raise typer.Exit(ExitCode.NOT_BETTER)
