"""The `lorapar` command: reads options, calls the rooms below, prints; nothing is computed here."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

# Read by OpenMP when torch is imported: idle threads that spin slow training threefold on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from lorapar import __version__
from lorapar.config import RunConfig, load_config, preset_names, preset_text
from lorapar.errors import BadInputError, ExitCode, LoraparError, Terminated, stopped
from lorapar.progress import Progress
from lorapar.store import storage_errors


class Commands(TyperGroup):
    """Every command; one that is stopped ends with one line and its own exit code, wherever it was."""

    def invoke(self, ctx: Any) -> Any:
        """Call the command; Ctrl-C and SIGTERM become StoppedError, which typer would end without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise stopped(stop, "") from None


app = typer.Typer(
    cls=Commands,
    name="lorapar",
    help="Fine-tune language models the LoRA-PAR way: teachers vote, elements are partitioned, SFT and RL tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console()
err = Console(stderr=True)

Preset = Annotated[str | None, typer.Option(help="Settings that ship with the package; see `lorapar presets`.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, on top of the settings.")]
OutDir = Annotated[Path | None, typer.Option("--out", help="Run folder; default: runs/NAME of the settings.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run into this folder made.")]


@app.command("run")
def run_command(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out_dir: OutDir = None,
    until: Until = None,
    fresh: Fresh = False,
) -> None:
    """Run every stage on this machine into one folder; a second run continues and reuses what is unchanged."""
    settings = _settings(preset, config, overrides)
    from lorapar.local import run_local
    from lorapar.report.text import closing_table

    folder = run_local(settings, _out_dir(settings, out_dir), _reporter, until=until, fresh=fresh)
    metrics = folder.root / "metrics.json"
    if metrics.is_file():
        out.print(closing_table(metrics))
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
) -> None:
    """Say what `run` with the same options would do: stages that run or are reused, memory, teacher calls."""
    settings = _settings(preset, config, overrides)
    from lorapar.local.planning import plan_table

    out.print(plan_table(settings, _out_dir(settings, out_dir), until=until, fresh=fresh))


@app.command("stage")
def stage_command(
    name: Annotated[str, typer.Argument(help="Name of the stage, such as `sft`.")],
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="name=FOLDER of an input artifact.")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="name=FOLDER to make an output in.")] = None,
    parameters: Annotated[list[str] | None, typer.Option("--param", help="name=value, such as system=system1.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for unfinished work; found again by a retry.")] = None,
) -> None:
    """Run one stage with local folders in and out."""
    settings = _settings(preset, config, overrides)
    from lorapar.local.single import StageOptions, run_single

    options = StageOptions.parse(name, inputs or [], outputs or [], parameters or [], scratch)
    with _reporter(f"{name}:") as progress:
        record = run_single(settings, options, progress)
    for metric, value in record.metrics.items():
        out.print(f"{metric} = {value:.6g}", markup=False)
    for output, digest in record.outputs.items():
        out.print(f"{output}: {digest}", markup=False)


@app.command("presets")
def presets_command(
    show: Annotated[str | None, typer.Option(help="Print this preset as YAML.")] = None,
) -> None:
    """List the settings that ship with the package."""
    if show is not None:
        out.print(preset_text(show), markup=False, highlight=False, end="", soft_wrap=True)
        return
    table = Table("preset", "what for", box=None, header_style="bold")
    for name in preset_names():
        table.add_row(name, preset_text(name).splitlines()[0].removeprefix("# "))
    out.print(table)


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html and metrics.json of a run folder again, from what it holds."""
    from lorapar.local import RunFolder
    from lorapar.local.results import write_run_report

    with storage_errors(folder):
        path = write_run_report(RunFolder(folder)) if folder.is_dir() else None
    if path is None:
        raise BadInputError(f"{folder}: not a run folder (no finished plan in it); start one with `lorapar run`")
    out.print(f"report: {path}", markup=False, soft_wrap=True)


@app.command("partition")
def partition_command(
    folder: Annotated[Path, typer.Argument(help="A run folder whose scoring has finished.")],
    sweep: Annotated[bool, typer.Option("--sweep", help="Show many values of theta, from the saved scores.")] = False,
) -> None:
    """Show the partition of a run, or with --sweep what other values of theta would give; needs no model."""
    from lorapar.local.partitions import partition_table, sweep_table

    with storage_errors(folder):
        table, plot = sweep_table(folder) if sweep else (partition_table(folder), None)
    out.print(table)
    if plot is not None:
        out.print(f"plot: {plot}", markup=False, soft_wrap=True)


@app.command("doctor")
def doctor_command() -> None:
    """Say what this machine can do and what is missing."""
    from lorapar.doctor import doctor_table, examine

    findings = examine()
    out.print(doctor_table(findings))
    if any(finding.missing for finding in findings):
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(f"lorapar {__version__}", highlight=False)
        raise typer.Exit


def _settings(preset: str | None, file: Path | None, overrides: list[str] | None) -> RunConfig:
    if preset is None and file is None:
        preset = "demo"
    return load_config(preset=preset, file=file, overrides=overrides or ())


def _out_dir(settings: RunConfig, given: Path | None) -> Path:
    return given if given is not None else Path("runs") / settings.name


def _reporter(prefix: str) -> AbstractContextManager[Progress]:
    from lorapar.terminal import progress_for

    return progress_for(out, prefix)


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main() -> NoReturn:
    """Entry point: errors a person can mend become one line and their exit code; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    # What libraries say to each other's authors is no news for the person at the keyboard.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\.")
    try:
        app(standalone_mode=True)
    except LoraparError as error:
        err.print(f"lorapar: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
