"""`lorapar votes`: contested rows out to a CSV file, edited labels back in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.base import app, out
from lorapar.cli.command import CommandGroup

votes_app = CommandGroup(help="Correct labels by hand.", no_args_is_help=True)
app.add_typer(votes_app, name="votes")

RunDir = Annotated[Path, typer.Argument(help="A run folder whose votes have been counted.")]


@votes_app.command("export")
def export_command(
    folder: RunDir,
    file: Annotated[Path | None, typer.Option("--file", help="CSV file to write; default: votes.csv there.")] = None,
    every_row: Annotated[
        bool, typer.Option("--all", help="All rows that were voted on, not contested ones only.")
    ] = False,
) -> None:
    """Write contested rows with their votes to a CSV file, with a column for edited labels.

    Example: `lorapar votes export runs/demo`
    """
    from lorapar.local.edits import export_rows
    from lorapar.local.folder import RunFolder
    from lorapar.store import storage_errors

    target = file if file is not None else folder / "votes.csv"
    with storage_errors(folder):
        done = export_rows(RunFolder(folder), target, every_row=every_row)
    out.print(f"{done.rows} of {done.voted} voted rows: {target}", markup=False, soft_wrap=True)


@votes_app.command("import")
def import_command(
    folder: RunDir,
    file: Annotated[Path, typer.Argument(help="CSV file with the columns example_id and edited.")],
) -> None:
    """Take edited labels (a system's name or hold_out); the next `lorapar run` re-runs only what depends on them.

    Example: `lorapar votes import runs/demo runs/demo/votes.csv`
    """
    from lorapar.local.edits import import_edits
    from lorapar.local.folder import RunFolder
    from lorapar.store import storage_errors

    with storage_errors(folder):
        count = import_edits(RunFolder(folder), file)
    note = "" if count else " (the column `edited` holds no system's name)"
    out.print(f"{count} edited labels kept{note}; run again into {folder} to use them", markup=False, soft_wrap=True)
