"""`lorapar watch` and `ui`: one run while it goes on, at the terminal; all runs and adapters, in the browser."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorapar.cli.adapters import open_registry
from lorapar.cli.base import AsJson, app, ending, out, show_document
from lorapar.errors import BadInputError
from lorapar.extras import pip_install

if TYPE_CHECKING:
    from lorapar.local.live import LiveNode, WatchedRun, Watcher
    from lorapar.registry import Registry
    from lorapar.ui.runs import Runs

_REDRAW_SECONDS = 2.0
_LINE_SECONDS = 60.0
_LOOK_SECONDS = 5.0
"""How often is looked where lines are printed: the last one comes soon after the end."""
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
_SHOWN = 4


@app.command("watch")
def watch_command(
    run: Annotated[str, typer.Argument(help="A run folder, or s3://STORE/runs/ID of a run in Kubeflow.")],
    as_json: AsJson = False,
) -> None:
    """Show a run while it goes on: stage, step, loss, reward, newest completions, time left. Changes nothing.

    At a terminal it redraws, elsewhere it prints a line a minute; it ends with the run. With --json it looks once.

    Examples: `lorapar watch runs/demo`, `lorapar watch s3://BUCKET/PREFIX/runs/ID`
    """
    from lorapar.local.live import Watcher

    with ending("only watching ended, the run is not touched"):
        _watch(Watcher(run), as_json=as_json)


def _watch(watcher: Watcher, *, as_json: bool) -> None:
    if as_json:
        from lorapar.cli.fill_documents import watched_document

        show_document(watched_document(watcher.look()))
    elif out.is_terminal:
        _redraw(watcher.look)
    else:
        follow(watcher.look, lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True))


def follow(
    look: Callable[[], WatchedRun],
    print_line: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """A line a minute, one when another stage begins, and one at the end."""
    printed_at, printed = -_LINE_SECONDS, ""
    while True:
        seen = look()
        of = f"{seen.state} {[one.node for one in seen.now]}"
        if of != printed or now() - printed_at >= _LINE_SECONDS:
            print_line(line_of(seen))
            printed_at, printed = now(), of
        if seen.state in ("finished", "failed"):
            return
        wait(_LOOK_SECONDS)


def line_of(seen: WatchedRun) -> str:
    """The run in one line."""
    done = sum(node.state == "finished" for node in seen.nodes)
    parts = [f"{seen.state}, {done} of {len(seen.nodes)} stages done"]
    return "; ".join([*parts, *map(_node_line, seen.now)])


def _node_line(live: LiveNode) -> str:
    if live.state == "failed":
        return f"{live.node} failed: {live.error}"
    title = f"{live.node}: {live.title}" if live.title else live.node
    count = f" {live.done:,}/{live.total:,}" if live.total else f" {live.done:,}" if live.done else ""
    metrics = [
        *_newest_metrics(live),
        *([_left(live.seconds_left)] if live.state == "running" and live.seconds_left else []),
    ]
    return title + count + "".join(f", {one}" for one in metrics)


def _newest_metrics(live: LiveNode) -> list[str]:
    """The newest metrics of training; steps that sample nothing leave the reward to the one before."""
    newest: dict[str, float] = {}
    for step in live.history:
        newest |= step
    if not newest:
        return [live.note] if live.note else []
    found = [f"step {int(newest['step'])}", f"loss {newest['loss']:.3f}"]
    found += [f"reward {newest['reward']:.3f}"] if "reward" in newest else []
    return found + ([f"{newest['cut_off_share']:.0%} cut off"] if "cut_off_share" in newest else [])


def _left(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return (
        f"about {hours:.1f} h left" if hours >= 1 else f"about {minutes} min left" if minutes else "under a minute left"
    )


def _redraw(look: Callable[[], WatchedRun]) -> None:
    from rich.live import Live

    with Live(console=out.console, auto_refresh=False, vertical_overflow="crop") as screen:
        while True:
            seen = look()
            screen.update(drawn(seen), refresh=True)
            if seen.state in ("finished", "failed"):
                return
            time.sleep(_REDRAW_SECONDS)


def drawn(seen: WatchedRun) -> Any:
    """The run as a picture: stages, curves, newest completions."""
    from rich.console import Group
    from rich.text import Text

    marks = {"finished": "✓", "running": "▶", "failed": "✗", "waiting": "·"}
    stages = "  ".join(f"{marks[node.state]} {node.node}" for node in seen.nodes)
    parts: list[Any] = [Text(f"{seen.run}: {seen.state}", style="bold"), Text(stages, style="dim")]
    for live in seen.now:
        parts.append(Text(_node_line(live)))
        parts += [Text(warning, style="yellow") for warning in live.warnings]
        for name in ("loss", "reward"):
            values = [step[name] for step in live.history if name in step]
            parts += [Text(f"{name:>6} {sparkline(values)}")] if len(values) > 1 else []
        parts += [_completions(live)] if live.rollouts else []
        parts += [Text(f"last news {live.updated}", style="dim")] if live.updated else []
    return Group(*parts)


def sparkline(values: list[float]) -> str:
    """The last values as bars between their least and their greatest."""
    shown = values[-_WIDTH:]
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return f"{''.join(_BARS[round((value - low) * scale)] for value in shown)}  {low:.3g} to {high:.3g}"


def _completions(live: LiveNode) -> Any:
    from rich.table import Table
    from rich.text import Text

    from lorapar.terminal import harmless

    table = Table("question", f"completion in step {live.rollouts[0].get('step')}", "reward", header_style="bold")
    for line in live.rollouts[:_SHOWN]:
        reward = line.get("reward")
        reward_text = "none" if reward is None else f"{reward:.3g}"
        texts = (str(line.get("question", ""))[-160:], str(line.get("completion", ""))[:320])
        table.add_row(
            *(Text(harmless(text)) for text in texts), reward_text + (", cut off" if line.get("cut_off") else "")
        )
    return table


_PACKAGES = ("starlette", "uvicorn")


@app.command("ui")
def ui_command(
    place: Annotated[
        str, typer.Argument(metavar="[PLACE]", help="A folder of run folders, or s3://BUCKET/PREFIX of a store.")
    ] = "runs",
    registry: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET/PREFIX or a folder; default: $LORAPAR_REGISTRY, then `registry` in PLACE."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    root_path: Annotated[str, typer.Option(help="Prefix behind a proxy, such as /lorapar.")] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host name that requests may ask for, besides this machine's; several.")
    ] = None,
) -> None:
    """Serve a page of all runs and adapters, for a browser; it only reads, and has no sign-in.

    Examples: `lorapar ui`, `lorapar ui s3://BUCKET/PREFIX --registry s3://BUCKET/REGISTRY`
    """
    try:
        from lorapar.ui.runs import open_runs
        from lorapar.ui.server import check_root_path, hosts_of, make_app, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise BadInputError(
            f"lorapar ui needs {error.name}, which is not installed here: {pip_install('ui')}"
        ) from None
    check_root_path(root_path)
    runs = open_runs(place)
    site = make_app(runs, _registry_of(registry, runs, place), root_path, hosts_of(host, allow_host or ()))
    serve(
        site,
        host,
        port,
        lambda address: out.print(_started_line(runs, address, root_path), highlight=False, soft_wrap=True),
    )


def _started_line(runs: Runs, address: str, root_path: str) -> str:
    return f"the runs in {runs.address}, at {address}{root_path.rstrip('/')}/ (reads only; Ctrl-C ends it)"


def _registry_of(given: str | None, runs: Runs, place: str) -> Registry | None:
    """As the option or the environment names it, else beside the runs; None where no folder is there."""
    if given or os.environ.get("LORAPAR_REGISTRY"):
        return open_registry(given)
    if "://" in place:
        return open_registry(f"{runs.address}/registry")
    beside = Path(place) / "registry"
    return open_registry(str(beside)) if beside.is_dir() else None
