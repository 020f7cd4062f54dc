"""`lorapar schedules`: the recurring runs that `lorapar schedule` made, and deleting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorapar.cli.base import AsJson, app, out, show_document
from lorapar.cli.command import CommandGroup
from lorapar.cli.kubeflow import Host, Namespace, seen_runs, server_at, show_summary
from lorapar.errors import BadInputError, nearest

if TYPE_CHECKING:
    from lorapar.kubeflow.server import Server

schedules = CommandGroup(no_args_is_help=True, help="Recurring runs in Kubeflow: list, delete.")
app.add_typer(schedules, name="schedules")


@schedules.command("list")
def list_command(host: Host = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """List the recurring runs of the pipeline, the newest first.

    Example: `lorapar schedules list --host http://HOST:8888`
    """
    found = server_at(host, namespace).schedules()
    rows = [
        (str(one.recurring_run_id), str(one.display_name), _when(one), str(one.status or "").lower()) for one in found
    ]
    if as_json:
        from lorapar.cli.documents import ScheduleDocument, Schedules

        keys = ("schedule", "name", "when", "state")
        show_document(
            Schedules(schedules=[ScheduleDocument.model_validate(dict(zip(keys, row, strict=True))) for row in rows])
        )
        return
    from rich.table import Table

    table = Table("schedule", "name", "when", "state", box=None, header_style="bold")
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        out.print(table)
    else:
        out.print("no schedules; `lorapar schedule` makes one", highlight=False)


@schedules.command("delete")
def delete_command(
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help="Id or name, as `list` shows them.")],
    host: Host = None,
    namespace: Namespace = None,
    now: Annotated[
        bool, typer.Option("--now", help="Also where a run of it is going, which Kubernetes then removes with it.")
    ] = False,
) -> None:
    """Delete a recurring run, once no run of it is going: Kubernetes would remove that one too.

    Example: `lorapar schedules delete nightly`
    """
    server = server_at(host, namespace)
    found = _find(server, schedule)
    server.disable_schedule(found.recurring_run_id)
    going = [] if now else _going(server, found.recurring_run_id)
    if going:
        ids = ", ".join(str(run.run_id) for run in going)
        raise BadInputError(
            f"SCHEDULE {schedule}: is disabled now and starts nothing more, but not deleted: its run {ids} is going "
            "and would be removed with it; delete it once that has ended, or now, run and all, with --now"
        )
    server.delete_schedule(found.recurring_run_id, with_runs=now)
    out.print(f"deleted {found.recurring_run_id} ({found.display_name}: {_when(found)})", markup=False, highlight=False)


def _going(server: Server, schedule: str) -> list[Any]:
    """The runs of a schedule that go on; one whose Workflow is gone is shown as running for ever and is none."""
    from lorapar.kubeflow.follow import GOING

    going = []
    for run, state, summary in seen_runs(server, server.runs_of(schedule)):
        show_summary(state, summary)
        if str(run.state or "") in GOING and state != "gone":
            going.append(run)
    return going


def _find(server: Server, schedule: str) -> Any:
    """The one recurring run of the pipeline with this id or name; raises BadInputError for none and for several."""
    known = server.schedules()
    found = [one for one in known if schedule in (one.recurring_run_id, one.display_name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(one.recurring_run_id for one in found)
        raise BadInputError(f"SCHEDULE {schedule}: {len(found)} schedules have this name; name one by its id: {ids}")
    words = [word for one in known for word in (one.recurring_run_id, one.display_name)]
    raise BadInputError(
        f"SCHEDULE {schedule}: no such schedule{nearest(schedule, words)}; see `lorapar schedules list`"
    )


def _when(recurring: Any) -> str:
    """Its cron expression; one made by other means may be periodic."""
    trigger = recurring.trigger
    if trigger is not None and trigger.cron_schedule is not None:
        return str(trigger.cron_schedule.cron)
    if trigger is not None and trigger.periodic_schedule is not None:
        return f"every {trigger.periodic_schedule.interval_second} s"
    return ""
