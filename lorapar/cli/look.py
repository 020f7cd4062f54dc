"""Commands that only read: `lorapar presets`, `report`, `partition` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.base import AsJson, app, out, show_document
from lorapar.errors import BadInputError


@app.command("presets")
def presets_command(
    show: Annotated[
        str | None, typer.Option(help="Print this preset as YAML.", autocompletion=complete.presets)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the settings that ship with the package.

    Examples: `lorapar presets`, `lorapar presets --show demo > mine.yaml`
    """
    from lorapar.config import preset_names, preset_summary, preset_text

    if as_json:
        _presets_as_json(show)
        return
    if show is not None:
        out.print(preset_text(show), markup=False, highlight=False, end="", soft_wrap=True)
        return
    from rich.table import Table

    table = Table("preset", "what for", box=None, header_style="bold")
    for name in preset_names():
        table.add_row(name, preset_summary(name))
    out.print(table)


def _presets_as_json(show: str | None) -> None:
    import yaml

    from lorapar.cli.documents import PresetDocument, Presets
    from lorapar.config import preset_names, preset_summary, preset_text

    settings = {show: yaml.safe_load(preset_text(show))} if show is not None else {}
    names = [show] if show is not None else preset_names()
    rows = [PresetDocument(name=one, summary=preset_summary(one), settings=settings.get(one)) for one in names]
    show_document(Presets(presets=rows))


@app.command("schema")
def schema_command(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]",
            help="A command with --json, such as `adapters list`.",
            autocompletion=complete.commands_with_json,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of the settings, with which editors complete and check them, or of a command's --json.

    Examples: `lorapar schema > lorapar.schema.json`, `lorapar schema adapters list`
    """
    if command:
        from lorapar.cli.documents_reference import document_schema

        text = document_schema(" ".join(command))
    else:
        from lorapar.config.reference import schema_text

        text = schema_text()
    out.print(text, markup=False, highlight=False, end="", soft_wrap=True)


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html and metrics.json of a run folder again, from what it holds.

    Example: `lorapar report runs/demo`
    """
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
    as_json: AsJson = False,
) -> None:
    """Show the partition of a run, or with --sweep what other values of theta would give; needs no model.

    Examples: `lorapar partition runs/demo`, `lorapar partition runs/demo --sweep`
    """
    from lorapar.local.partitions import partition_metrics, partition_table, swept
    from lorapar.report.terminal import sweep_rows
    from lorapar.store import storage_errors

    with storage_errors(folder):
        rows, plot = swept(folder) if sweep else (None, None)
        metrics = partition_metrics(folder) if rows is None else None
    if as_json:
        from lorapar.cli.documents import PartitionDocument
        from lorapar.cli.fill_documents import sweep_documents

        found = sweep_documents(rows) if rows is not None else None
        show_document(PartitionDocument(partition=metrics, sweep=found, plot=str(plot) if plot else None))
        return
    out.print(sweep_rows(rows) if rows is not None else partition_table(metrics or {}))
    if plot is not None:
        out.print(f"plot: {plot}", markup=False, soft_wrap=True)


@app.command("doctor")
def doctor_command(
    store: Annotated[str | None, typer.Option(help="Also try this storage: s3://BUCKET/PREFIX or a folder.")] = None,
    to_write: Annotated[bool, typer.Option("--to-write", help="A store that can only be read is not enough.")] = False,
    host: Annotated[str | None, typer.Option(help="Also try this Kubeflow, and how Argo retries there.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of a multi-user Kubeflow, with --host.")] = None,
    rollouts: Annotated[str | None, typer.Option(help="Also ask this vLLM server, of rl.rollouts server.")] = None,
    rollouts_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds that server's key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do and what is missing.

    Examples: `lorapar doctor`, `lorapar doctor --store s3://BUCKET/PREFIX --to-write`
    """
    from lorapar.doctor import doctor_table, examine, examine_kubeflow, examine_rollouts, examine_store

    findings = examine() + (examine_store(store, to_write=to_write) if store is not None else [])
    findings += examine_kubeflow(host, namespace) if host is not None else []
    if rollouts is None and rollouts_key_env is not None:
        raise BadInputError("--rollouts-key-env does nothing without --rollouts; name the server too")
    findings += examine_rollouts(rollouts, rollouts_key_env) if rollouts is not None else []
    if as_json:
        from lorapar.cli.documents import DoctorDocument
        from lorapar.cli.fill_documents import finding_document

        show_document(DoctorDocument(findings=[finding_document(one) for one in findings]))
    else:
        out.print(doctor_table(findings))
    for finding in reversed(findings):
        if finding.missing:
            raise typer.Exit(finding.exit_code)
