"""`lorapar serve`: from a published adapter to a vLLM server."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.adapters import Where, open_registry
from lorapar.cli.base import app, err, out
from lorapar.errors import BadInputError
from lorapar.extras import pip_install


@app.command("serve")
def serve_command(
    names: Annotated[
        list[str],
        typer.Argument(
            help="NAME (what `production` names) or NAME@ALIAS, of one base model.", autocompletion=complete.adapters
        ),
    ],
    where: Where = None,
    model: Annotated[Path | None, typer.Option(help="A local copy of the base model; else vLLM fetches it.")] = None,
    other_base: Annotated[
        bool, typer.Option("--other-base", help="Serve over another base than the adapters were trained on.")
    ] = False,
    capture: Annotated[
        str, typer.Option(help="Keep a share of requests and answers: a YAML file, or '{name: NAME, share: 0.1}'.")
    ] = "",
    run: Annotated[bool, typer.Option("--run/--print", help="Become the server, or print its command.")] = False,
    vllm: Annotated[str, typer.Option(help="Further arguments of vLLM, such as '--port 8001'.")] = "",
) -> None:
    """Print or run the vLLM server that serves adapters of a registry and follows their aliases.

    Examples: `lorapar serve NAME`, `lorapar serve NAME@candidate --run --vllm '--port 8001'`
    """
    from lorapar.serving import server_command

    if run and model is not None and not model.is_dir():
        raise BadInputError(f"--model: there is no folder '{model}' on this machine, and the server would start here")
    command = server_command(
        open_registry(where), names, model=model, extra=shlex.split(vllm), other_base=other_base, capture=capture
    )
    for note in command.notes:
        err.print(note, markup=False, highlight=False, soft_wrap=True)
    if not run:
        out.print(str(command), markup=False, highlight=False, soft_wrap=True)
        return
    _need_vllm()
    os.execve(sys.executable, [sys.executable, *command.arguments[1:]], {**os.environ, **command.environment})  # noqa: S606


def _need_vllm() -> None:
    from importlib.util import find_spec

    if find_spec("vllm") is None or find_spec("prometheus_client") is None:
        raise BadInputError(
            f"{sys.executable} lacks vLLM or what serves adapters with it: pip install vllm and "
            f"{pip_install('serve')}, or run what --print shows"
        )
    from lorapar.serving.vllm_version import installed_vllm, refuse_unsafe

    refuse_unsafe(installed_vllm())
