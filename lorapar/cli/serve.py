"""`lorapar serve` and `lorapar export`: from a published adapter to a server."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.adapters import Where, open_registry
from lorapar.cli.ask import local_adapter, need_torch
from lorapar.cli.base import app, err, out, reporter
from lorapar.errors import BadInputError


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
    run: Annotated[bool, typer.Option("--run/--print", help="Become the server, or print its command.")] = False,
    vllm: Annotated[str, typer.Option(help="Further arguments of vLLM, such as '--port 8001'.")] = "",
) -> None:
    """Print or run the vLLM server that serves adapters of a registry and follows their aliases.

    Examples: `lorapar serve NAME`, `lorapar serve NAME@candidate --run --vllm '--port 8001'`
    """
    from lorapar.serving import server_command

    if run and model is not None and not model.is_dir():
        raise BadInputError(f"--model: there is no folder '{model}' on this machine, and the server would start here")
    command = server_command(open_registry(where), names, model=model, extra=shlex.split(vllm), other_base=other_base)
    for note in command.notes:
        err.print(note, markup=False, highlight=False, soft_wrap=True)
    if not run:
        out.print(str(command), markup=False, highlight=False, soft_wrap=True)
        return
    _need_vllm()
    os.execve(sys.executable, [sys.executable, *command.arguments[1:]], {**os.environ, **command.environment})  # noqa: S606


@app.command("export")
def export_command(
    ref: Annotated[
        str, typer.Argument(metavar="REF|DIR", help="NAME, NAME@3, NAME@ALIAS; a PEFT folder with --merged.")
    ],
    where: Where = None,
    base: Annotated[
        str | None, typer.Option(metavar="URI", help="Where KServe finds the base: pvc://CLAIM/PATH, s3://…, hf://…")
    ] = None,
    kserve: Annotated[bool, typer.Option("--kserve", help="As a KServe LLMInferenceService, in YAML.")] = False,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="POOL", help="As an InferenceModelRewrite for this InferencePool: aliases, canary; REF is a NAME."
        ),
    ] = None,
    merged: Annotated[
        Path | None, typer.Option("--merged", help="As a plain model in this folder: base and adapter in one.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="With --merged: a local copy of the base model.")] = None,
) -> None:
    """Write a version as a manifest for another server, or with --merged as a plain model.

    Examples: `lorapar export NAME@production --kserve > service.yaml`, `lorapar export NAME@3 --merged ./model`
    """
    if [kserve, gateway is not None, merged is not None].count(True) != 1:
        raise BadInputError("say what as: there are --kserve, --gateway POOL and --merged DIR, one at a time")
    if merged is not None:
        if base is not None:
            raise BadInputError("--base is for --kserve; with --merged name a local copy of the base with --model")
        _export_merged(ref, where, merged, model)
        return
    if model is not None:
        raise BadInputError("--model is for --merged; with --kserve say --base URI")
    if gateway is not None and base is not None:
        raise BadInputError("--base is for --kserve; the servers behind a gateway have their base model already")
    import yaml

    from lorapar.serving import gateway_manifest, kserve_manifest

    registry = open_registry(where)
    if gateway is not None:
        manifest = gateway_manifest(registry, ref, gateway)
    else:
        manifest = kserve_manifest(registry, registry.resolve(ref), base)
    text = yaml.safe_dump(manifest, sort_keys=False)
    out.print(text, markup=False, highlight=False, soft_wrap=True, end="")


def _export_merged(ref: str, where: str | None, folder: Path, model: Path | None) -> None:
    from lorapar.serving.here import merge
    from lorapar.store import make_writable_folder, refuse_other_content, storage_errors

    need_torch("export --merged")
    refuse_other_content(folder, f"{folder}: is not empty, and --merged makes a folder; name a new one")
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{folder}: is a file; name a folder to make")
    with storage_errors(folder), local_adapter(ref, where, model) as adapter:
        make_writable_folder(folder.parent)
        with reporter("export:") as progress:
            difference = merge(adapter, folder, progress)
        size = sum(path.stat().st_size for path in folder.iterdir())
    out.print(
        f"{folder}: {size / 1e6:.1f} MB in {adapter.model.dtype}; no logit differs from base with adapter by more than "
        f"{difference:.3g}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _need_vllm() -> None:
    from importlib.util import find_spec

    if find_spec("vllm") is None or find_spec("prometheus_client") is None:
        raise BadInputError(
            f"{sys.executable} lacks vLLM or the extra `lorapar[serve]`; install them, or run what --print shows"
        )
    from lorapar.serving.vllm_version import installed_vllm, refuse_unsafe

    refuse_unsafe(installed_vllm())
