"""`lorapar gc` and `lorapar models`: what is in a store, and base models copied into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.base import AsJson, app, print_redacted, reporter, show_document
from lorapar.cli.command import CommandGroup
from lorapar.errors import BadInputError

models = CommandGroup(help="Base models kept in your own storage.", no_args_is_help=True)
app.add_typer(models, name="models")


@app.command("gc")
def gc_command(
    address: Annotated[str, typer.Argument(help="Storage that runs were given: s3://BUCKET/PREFIX or a folder.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is changed.")] = False,
    grace_hours: Annotated[
        float, typer.Option(min=0.0, help="Keep what is younger; longer than any upload takes.")
    ] = 24.0,
    roots: Annotated[
        list[str] | None, typer.Option("--root", help="Another address whose files refer to content in this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List, or with --delete remove, what no run, checkpoint or published adapter of a store needs.

    Examples: `lorapar gc s3://BUCKET/PREFIX`, `lorapar gc s3://BUCKET/PREFIX --delete`
    """
    from lorapar.store import is_s3, open_store
    from lorapar.store.garbage import find_garbage, remove_garbage

    store, grace_seconds = open_store(address), grace_hours * 3600
    if not is_s3(address) and not Path(address).is_dir():
        raise BadInputError(f"{address}: no such folder; name the storage that runs were given")
    found = find_garbage(store, grace_seconds, [open_store(root) for root in roots or []])
    if as_json:
        from lorapar.cli.fill_documents import garbage_document

        show_document(garbage_document(found, remove_garbage(store, found, grace_seconds) if delete else None))
        return
    print_redacted(f"looked into {found.roots} objects that may name content")
    print_redacted(f"{found.reached} objects are needed, {found.young} are not but are younger than {grace_hours:g} h")
    print_redacted(
        f"{len(found.left_over)} are left over ({found.size_bytes / 1e6:.1f} MB), {found.unfinished} uploads unfinished"
    )
    if delete:
        removed = remove_garbage(store, found, grace_seconds)
        print_redacted(f"removed {removed}")
    elif found.left_over or found.unfinished:
        print_redacted("nothing was changed; --delete removes them")


@models.command("mirror")
def mirror_command(
    model: Annotated[str, typer.Argument(help="NAME@REVISION of the hub, or a local folder.")],
    address: Annotated[str, typer.Argument(help="Where to: s3://BUCKET/PREFIX or a folder.")],
) -> None:
    """Copy a base model to your own storage; `model.name` then takes that address, and no hub is needed.

    Example: `lorapar models mirror HuggingFaceTB/SmolLM2-135M-Instruct s3://BUCKET/PREFIX`
    """
    from lorapar.basemodel.bucket import mirror_model, parse_name

    with reporter("mirror:") as progress:
        resolved, manifest = mirror_model(parse_name(model), address, progress)
    size = sum(entry.size_bytes for entry in manifest.files.values())
    revision = f"@{resolved.revision}" if resolved.revision else ""
    print_redacted(f"{resolved.name}{revision}: {len(manifest.files)} files, {size / 1e6:.1f} MB, at {address}")
    print_redacted(f"use it as: --set model.name={address}")
