"""`lorapar ui`: a page for all runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli.adapters import open_registry
from lorapar.cli.base import app, out
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from lorapar.registry import Registry
    from lorapar.ui.runs import Runs

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
    """Serve a page of all runs and adapters, for a browser; reads only, and asks nobody who they are.

    Examples: `lorapar ui`, `lorapar ui s3://BUCKET/PREFIX --registry s3://BUCKET/REGISTRY`
    """
    try:
        from lorapar.ui.runs import open_runs
        from lorapar.ui.server import check_root_path, hosts_of, make_app, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise BadInputError(
            f"lorapar ui needs {error.name}, which is not installed here: pip install 'lorapar[ui]'"
        ) from None
    check_root_path(root_path)
    runs = open_runs(place)
    site = make_app(runs, _registry_of(registry, runs, place), root_path, hosts_of(host, allow_host or ()))
    serve(site, host, port, lambda address: out.print(_told(runs, address, root_path), highlight=False, soft_wrap=True))


def _told(runs: Runs, address: str, root_path: str) -> str:
    return f"runs of {runs.address}: {address}{root_path.rstrip('/')}/ (reads only; Ctrl-C ends it)"


def _registry_of(given: str | None, runs: Runs, place: str) -> Registry | None:
    """As the option or the environment names it, else beside the runs; None where no folder is there."""
    if given or os.environ.get("LORAPAR_REGISTRY"):
        return open_registry(given)
    if "://" in place:
        return open_registry(f"{runs.address}/registry")
    beside = Path(place) / "registry"
    return open_registry(str(beside)) if beside.is_dir() else None
