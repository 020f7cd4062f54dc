"""`lorapar capture`: what servers keep of requests and answers; listed, shown, exported, deleted, pruned."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli.adapters import Where, open_registry, print_text, show_table
from lorapar.cli.base import AsJson, app, err, out, show_document
from lorapar.cli.command import CommandGroup
from lorapar.errors import BadInputError, IntegrityError, LoraparError

if TYPE_CHECKING:
    from lorapar.capture import Capture
    from lorapar.capture.parts import Deleted
    from lorapar.cli.documents_capture import CaptureSummary, DeletedDocument
    from lorapar.registry.overview import Traces
    from lorapar.store import ObjectStore

capture_app = CommandGroup(help="Requests and answers that servers keep, if switched on.", no_args_is_help=True)
app.add_typer(capture_app, name="capture")

CaptureName = Annotated[str, typer.Argument(metavar="NAME", help="A capture, as `serving.capture` names it.")]
Place = Annotated[str | None, typer.Option("--store", help="Store that the server writes to; default: the registry's.")]
Day = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Only from this day on, in UTC.")]


@capture_app.command("list")
def list_command(where: Where = None, store: Place = None, as_json: AsJson = False) -> None:
    """List captures with their days and sizes.

    Examples: `lorapar capture list`, `lorapar capture list --store s3://BUCKET/PREFIX --json`
    """
    from lorapar.capture import Capture, captures

    opened = _store(store, where)
    found = [_summary(Capture(opened, name)) for name in captures(opened)]
    if as_json:
        from lorapar.cli.documents_capture import Captures

        show_document(Captures(store=opened.address, captures=found))
        return
    if not found:
        raise BadInputError(f"{opened.address}: no capture in it")
    from rich.table import Table

    table = Table("capture", "first day", "last day", "files", "kB", "kept days", box=None, header_style="bold")
    for one in found:
        days = str(one.retention_days or "?")
        table.add_row(
            one.name, one.first_day or "", one.last_day or "", str(one.files), f"{one.size_bytes / 1e3:,.0f}", days
        )
    show_table(table)


@capture_app.command("show")
def show_command(
    name: CaptureName,
    where: Where = None,
    store: Place = None,
    request_id: Annotated[str | None, typer.Option(help="Show all that is kept of this request.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a capture holds, by days, and by which settings it is kept; or all that is kept of one request.

    Examples: `lorapar capture show NAME`, `lorapar capture show NAME --request-id ID --json`
    """
    from lorapar.cli.documents_capture import contents_document, contents_lines, request_document

    capture = _capture(name, store, where)
    if request_id is not None:
        show_document(request_document(capture, request_id))
        return
    found = contents_document(capture, _summary(capture))
    if as_json:
        show_document(found)
    else:
        for line in contents_lines(found):
            print_text(line)


@capture_app.command("export")
def export_command(
    name: CaptureName,
    file: Annotated[Path, typer.Option("--file", help="CSV file to write; one that is there is not replaced.")],
    where: Where = None,
    store: Place = None,
    since: Day = None,
    every_row: Annotated[
        bool, typer.Option("--all", help="Also requests that feedback gives an answer to learn.")
    ] = False,
) -> None:
    """Write requests to a sheet with empty columns for answers; `data.capture.file` takes it filled in.

    Example: `lorapar capture export NAME --file answers.csv`
    """
    from lorapar.capture.records import latest_feedback
    from lorapar.capture.sheet import sheet_csv, sheet_rows
    from lorapar.store import write_named_file

    if file.exists():
        raise BadInputError(f"--file: {file} is there already, perhaps with answers in it; give another name")
    capture = _capture(name, store, where)
    first = _day("--since", since)
    parts = [part for part in capture.parts() if first is None or part.of_feedback or part.day.isoformat() >= first]
    feedback = latest_feedback(capture.feedback(parts))
    rows = sheet_rows(capture.requests(parts), feedback, every_row=every_row)
    write_named_file(file, sheet_csv(rows, feedback))
    out.print(f"{len(rows)} requests of {name}: {file}", markup=False, soft_wrap=True)


@capture_app.command("delete")
def delete_command(
    name: CaptureName,
    request_id: Annotated[list[str], typer.Option(help="The x-request-id of an answer; may be given several times.")],
    where: Where = None,
    store: Place = None,
    as_json: AsJson = False,
) -> None:
    """Delete requests with their answers and feedback, and say which adapters were trained on them.

    Example: `lorapar capture delete NAME --request-id 4f1c20…`
    """
    capture, now = _capture(name, store, where), datetime.now(UTC)
    gone: dict[str, Deleted] = {}
    for one in request_id:
        gone[one] = capture.delete(one, now)
        if not as_json:
            remarks = gone[one].feedback
            print_text(f"{one}: {gone[one].requests} requests and {remarks} remarks deleted; later ones are left out")
    fault: LoraparError | None = None
    traces: Traces | None = None
    try:  # what is deleted is told whatever the registry is like
        traces = _traces(name, request_id, where)
    except LoraparError as error:
        fault = error
    if as_json:
        show_document(_deleted_document(name, gone, traces))
    elif fault is None:
        _print_traces(gone, traces)
    if traces is not None and traces.unreadable:
        fault = IntegrityError(
            f"{len(traces.unreadable)} lineages cannot be read, so versions may be missing: "
            + "; ".join(traces.unreadable)
        )
    if fault is not None:
        raise fault


def _deleted_document(name: str, gone: dict[str, Deleted], traces: Traces | None) -> DeletedDocument:
    from lorapar.capture import request_digest
    from lorapar.cli.documents_capture import DeletedDocument, DeletedRequest

    found = [
        DeletedRequest(
            request_id=one,
            digest=request_digest(one),
            requests=taken.requests,
            feedback=taken.feedback,
            files=taken.parts,
            trained=None if traces is None else traces.versions[one],
        )
        for one, taken in gone.items()
    ]
    return DeletedDocument(
        capture=name,
        deleted=found,
        goes_on=traces.goes_on if traces else {},
        unreadable=traces.unreadable if traces else [],
    )


def _print_traces(gone: dict[str, Deleted], traces: Traces | None) -> None:
    from lorapar.capture import request_digest

    if traces is None:
        err.print_line("no registry was looked at for versions that were trained on it; give --registry", "yellow")
        return
    for one in gone:
        for version in traces.versions[one]:
            parent = traces.goes_on.get(version)
            what = f"goes on from {parent}, which was trained on it" if parent else "was trained on it"
            print_text(
                f"{version} {what} (row {request_digest(one)}); retrain without it, and stop serving that version"
            )


def _traces(name: str, request_ids: list[str], where: str | None) -> Traces | None:
    """The versions of the registry that were trained on requests; None where no registry is named."""
    from lorapar.capture import request_digest
    from lorapar.registry.overview import trained_on

    try:
        registry = open_registry(where)
    except BadInputError:
        if where is not None:
            raise
        return None
    return trained_on(registry, name, {request_digest(one): one for one in request_ids})


@capture_app.command("prune")
def prune_command(
    name: CaptureName,
    where: Where = None,
    store: Place = None,
    retention_days: Annotated[
        int | None, typer.Option(min=1, help="Days that are kept; default: as the server's settings say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete every day that is older than it may be; servers that run do so by themselves, once an hour.

    Examples: `lorapar capture prune NAME`, `lorapar capture prune NAME --retention-days 7`
    """
    from lorapar.cli.documents_capture import PrunedDocument

    capture = _capture(name, store, where)
    if retention_days is None:
        settings = capture.settings()
        if settings is None:
            raise BadInputError(f"{capture.where}: holds no settings of a server; give --retention-days")
        retention_days = settings.retention_days
    gone = capture.prune(retention_days, datetime.now(UTC))
    document = PrunedDocument(
        capture=name,
        retention_days=retention_days,
        days=[day.isoformat() for day in gone.days],
        files=gone.parts,
        size_bytes=gone.size_bytes,
    )
    if as_json:
        show_document(document)
    else:
        print_text(f"{name}: {len(gone.days)} days ({gone.parts} files) older than {retention_days} days deleted")


def _store(address: str | None, where: str | None) -> ObjectStore:
    from lorapar.store import open_store

    return open_store(address) if address is not None else open_registry(where).store


def _capture(name: str, address: str | None, where: str | None) -> Capture:
    from lorapar.capture import known_capture

    return known_capture(_store(address, where), name)


def _summary(capture: Capture) -> CaptureSummary:
    from lorapar.cli.documents_capture import summary_document

    return summary_document(capture)


def _day(option: str, text: str | None) -> str | None:
    from datetime import date

    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise BadInputError(f"{option}: '{text}' is no day; write it as 2026-11-30") from None
