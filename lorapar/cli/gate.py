"""`lorapar gate`: the verdict of a finished run, as words and as an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.base import AsJson, app, out, show_document
from lorapar.errors import BadInputError, ExitCode


@app.command("gate")
def gate_command(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: AsJson = False) -> None:
    """Print the verdict of a finished run; ends with 0 where the adapter is better, with 10 where it is not.

    Examples: `lorapar gate runs/demo`, `lorapar gate runs/demo --json`
    """
    from lorapar.local.folder import RunFolder
    from lorapar.local.results import current_verdict
    from lorapar.report.scores import verdict_lines
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
