"""Commands that only look: `lorapar presets`, `report`, `partition` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.base import app, out
from lorapar.errors import BadInputError


@app.command("presets")
def presets_command(
    show: Annotated[str | None, typer.Option(help="Print this preset as YAML.")] = None,
) -> None:
    """List the settings that ship with the package."""
    from lorapar.config import preset_names, preset_summary, preset_text

    if show is not None:
        out.print(preset_text(show), markup=False, highlight=False, end="", soft_wrap=True)
        return
    from rich.table import Table

    table = Table("preset", "what for", box=None, header_style="bold")
    for name in preset_names():
        table.add_row(name, preset_summary(name))
    out.print(table)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of the settings, by which editors complete and check a YAML file."""
    from lorapar.config.reference import schema_text

    out.print(schema_text(), markup=False, highlight=False, end="", soft_wrap=True)


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html and metrics.json of a run folder again, from what it holds."""
    from lorapar.local.folder import RunFolder
    from lorapar.local.results import write_run_report
    from lorapar.store import storage_errors

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
    from lorapar.store import storage_errors

    with storage_errors(folder):
        table, plot = sweep_table(folder) if sweep else (partition_table(folder), None)
    out.print(table)
    if plot is not None:
        out.print(f"plot: {plot}", markup=False, soft_wrap=True)


@app.command("doctor")
def doctor_command(
    store: Annotated[str | None, typer.Option(help="Also try this storage: s3://BUCKET/PREFIX or a folder.")] = None,
    to_write: Annotated[bool, typer.Option("--to-write", help="A store that can only be read is not enough.")] = False,
    host: Annotated[str | None, typer.Option(help="Also try this Kubeflow, and how Argo retries there.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of a multi-user Kubeflow, with --host.")] = None,
) -> None:
    """Say what this machine can do and what is missing."""
    from lorapar.doctor import doctor_table, examine, examine_kubeflow, examine_store

    findings = examine() + (examine_store(store, to_write=to_write) if store is not None else [])
    findings += examine_kubeflow(host, namespace) if host is not None else []
    out.print(doctor_table(findings))
    for finding in reversed(findings):
        if finding.missing:
            raise typer.Exit(finding.exit_code)
