"""`lorapar adapters`: look into a registry, move aliases, fetch, check and clear away versions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli.base import app, out
from lorapar.cli.command import CommandGroup
from lorapar.errors import BadInputError, ExitCode, IntegrityError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from lorapar.registry import AliasRecord, Registry

adapters = CommandGroup(no_args_is_help=True, help="Published adapters: versions, aliases, verdicts.")
app.add_typer(adapters, name="adapters")

Where = Annotated[
    str | None,
    typer.Option(
        "--registry",
        help="s3://BUCKET/PREFIX, a folder, or a YAML file of settings that names one; default: $LORAPAR_REGISTRY, "
        "then runs/registry.",
    ),
]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME@3, NAME@ALIAS, or NAME for NAME@production.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an adapter.")]
OptionalName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of an adapter; absent: all.")]
Reason = Annotated[str, typer.Option(help="Why, for the alias's history.")]

_DEFAULT = Path("runs") / "registry"


def open_registry(where: str | None) -> Registry:
    """The registry that an option, the environment or the default folder names; raises BadInputError."""
    from lorapar.registry import Registry
    from lorapar.store import open_store

    address = where or os.environ.get("LORAPAR_REGISTRY") or (str(_DEFAULT) if _DEFAULT.is_dir() else None)
    if address is None:
        raise BadInputError(
            f"which registry? There is no {_DEFAULT} here; give --registry s3://BUCKET/PREFIX or a folder, or set "
            "LORAPAR_REGISTRY"
        )
    if address.endswith((".yaml", ".yml")):
        if not Path(address).is_file():
            raise BadInputError(f"--registry {address}: there is no such file of settings")
        from lorapar.config import load_config

        named = load_config(file=Path(address)).registry.address
        if named is None:
            raise BadInputError(f"--registry {address}: these settings name no registry.address; give the address")
        address = named
    return Registry(open_store(address))


@adapters.command("list")
def list_command(name: OptionalName = None, where: Where = None) -> None:
    """List adapters with their aliases; with a name, its versions, the newest first; 6 where one is damaged."""
    from rich.markup import escape
    from rich.table import Table

    from lorapar.registry.overview import adapter_rows, version_rows

    registry, faults = open_registry(where), []
    if name is None:
        table = Table("adapter", "versions", "aliases", box=None, header_style="bold")
        for row in adapter_rows(registry):
            named = (_named(alias, record) for alias, record in sorted(row.aliases.items()))
            table.add_row(row.name, str(row.versions), "damaged" if row.fault else escape(", ".join(named)))
            faults += [row.fault] if row.fault else []
    else:
        table = Table("version", "aliases", "verdict", "published", box=None, header_style="bold")
        for found in version_rows(registry, name):
            when, aliases = found.published[:16].replace("T", " "), escape(", ".join(found.aliases))
            table.add_row(str(found.number), aliases, found.verdict, when)
            faults += [found.fault] if found.fault else []
    if not table.row_count:
        raise BadInputError(f"{registry.address}: no {'adapter' if name is None else f'version of {name}'} in it")
    _show_table(table)
    if faults:
        more = f" (and {len(faults) - 1} more: `lorapar adapters verify {name or 'NAME'}`)" if len(faults) > 1 else ""
        raise IntegrityError(f"{faults[0]}{more}")


@adapters.command("show")
def show_command(ref: Ref, where: Where = None) -> None:
    """Show one version: digest, files, aliases, verdict, and how to serve it."""
    from lorapar.registry.overview import version_facts

    _say(version_facts(open_registry(where), ref))


@adapters.command("diff")
def diff_command(
    left: Annotated[str, typer.Argument(metavar="REF", help="The earlier version.")],
    right: Annotated[str, typer.Argument(metavar="REF", help="The later version.")],
    where: Where = None,
) -> None:
    """Compare two versions: settings and lineage by key, weights by how many numbers moved how far."""
    from rich.table import Table

    from lorapar.registry.diff import lineage_differences, weight_difference

    registry = open_registry(where)
    table = Table("what", left, right, box=None, header_style="bold")
    for found in lineage_differences(registry, left, right):
        table.add_row(found.key, _cell(found.left), _cell(found.right))
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        weights = weight_difference(registry, left, right, Path(scratch))
    if table.row_count:
        _show_table(table)
    else:
        _say("the lineages are equal")
    _say(
        f"weights: {weights.changed:,} of {weights.elements:,} numbers in {weights.tensors} tensors differ, by at most "
        f"{weights.largest:.3g}; the difference is {100 * weights.relative:.3g}% of the weights' norm"
        + (f"; {weights.other_tensors} tensors have no counterpart" if weights.other_tensors else "")
    )


@adapters.command("why")
def why_command(
    ref: Ref,
    where: Where = None,
    save: Annotated[Path | None, typer.Option(help="Also write the settings that make it again to this file.")] = None,
) -> None:
    """Say on one page why a version is what it is: verdict, run, votes, rows, images, and its settings."""
    from lorapar.registry.overview import lineage_of
    from lorapar.registry.why import reproducing_settings, why
    from lorapar.store import write_named_file

    registry = open_registry(where)
    _say(why(registry, ref).rstrip())
    if save is not None:
        write_named_file(save, reproducing_settings(lineage_of(registry, registry.resolve(ref))))


@adapters.command("promote")
def promote_command(
    ref: Ref,
    where: Where = None,
    canary: Annotated[
        float | None, typer.Option(help="Give it this percentage of the requests as `candidate`; production stays.")
    ] = None,
    override: Annotated[str | None, typer.Option(help="Promote whatever the verdict is; say why.")] = None,
) -> None:
    """Move production to a version whose gate found it better than what production names now."""
    from lorapar.registry.promotion import promote_by_hand, start_canary

    if canary is not None and override is not None:
        raise BadInputError("--override is not for --canary: a canary needs no verdict, and production stays")
    registry = open_registry(where)
    version = registry.resolve(ref)
    if canary is not None:
        record = start_canary(registry, version, canary)
        _say(f"{version.name}@candidate names version {record.version}, with {record.share_percent:g}% of the requests")
        return
    _say(promote_by_hand(registry, version, override).reason)


@adapters.command("rollback")
def rollback_command(
    name: Name,
    where: Where = None,
    alias: Annotated[str, typer.Option(help="Alias that goes back.")] = "production",
    to: Annotated[int | None, typer.Option(help="An earlier version; default: the one before.")] = None,
    reason: Reason = "",
) -> None:
    """Move an alias back to the version it named before; runs will not promote what was rolled back."""
    from lorapar.registry.promotion import roll_back

    record = roll_back(open_registry(where), name, alias, to, reason)
    _say(f"{name}@{alias} names version {record.version} again")


@adapters.command("pull")
def pull_command(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(help="Folder to make; an adapter that is there is replaced.")],
    where: Where = None,
) -> None:
    """Fetch a version as a PEFT folder, every byte checked, whole or not at all."""
    from lorapar.serving.base_identity import base_of, said
    from lorapar.store import make_writable_folder, storage_errors

    _refuse_other_content(folder)
    with storage_errors(folder):
        make_writable_folder(folder.parent)
        registry = open_registry(where)
        version = registry.pull(ref, folder)
    _say(f"{version} is in {folder}; it fits only the base model {said(base_of(registry, version))}")


@adapters.command("push")
def push_command(
    ref: Ref,
    to: Annotated[str, typer.Option(metavar="OWNER/REPO", help="Repository of the hub; made where it is missing.")],
    where: Where = None,
    private: Annotated[bool, typer.Option("--private", help="Make it a private one; refuse a public one.")] = False,
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="Branch; made where it is missing.")] = "main",
) -> None:
    """Copy a version, verified, to the Hugging Face hub; the token is that of HF_TOKEN or `hf auth login`."""
    from lorapar.registry.hub import HubTarget, push_to_hub

    pushed = push_to_hub(open_registry(where), ref, HubTarget(to, revision, private))
    _say(f"{pushed.version} is {'at' if pushed.new else 'there already, nothing was changed:'} {pushed.address}")


@adapters.command("register")
def register_command(
    ref: Ref,
    registry_url: Annotated[str, typer.Option(metavar="URL", help="http(s)://HOST[:PORT] of the Model Registry.")],
    where: Where = None,
) -> None:
    """Register a version, which stays in its bucket, with Kubeflow Model Registry."""
    from lorapar.registry.model_registry import register_version

    done = register_version(open_registry(where), ref, registry_url)
    how = "registered" if done.new else "registered already"
    _say(f"{done.version} is {how}: registered model {done.model_id}, model version {done.version_id}")


@adapters.command("sign")
def sign_command(
    ref: Ref,
    key: Annotated[Path, typer.Option(help="Ed25519 private key in PEM.")],
    where: Where = None,
) -> None:
    """Sign a version; servers with LORAPAR_TRUSTED_KEYS load nothing that no trusted key has signed."""
    from lorapar.registry.signature import sign_version

    registry = open_registry(where)
    version = registry.resolve(ref)
    _say(f"{version} is signed by the key {sign_version(registry.store, version, key)}")


@adapters.command("verify")
def verify_command(
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", help="A version or a name; absent: everything.")] = None,
    where: Where = None,
) -> None:
    """Check every byte against the manifests, and every alias; ends with 6 where something is damaged."""
    from lorapar.registry.check import check

    faults = 0
    for found in check(open_registry(where), ref):
        faults += found.fault is not None
        _say(f"{found.what}: {found.fault or 'whole'}")
    if faults:
        raise typer.Exit(ExitCode.INTEGRITY)


@adapters.command("gc")
def gc_command(
    name: OptionalName = None,
    where: Where = None,
    keep: Annotated[int, typer.Option(min=0, help="Newest versions kept.")] = 5,
    grace_days: Annotated[float, typer.Option(min=0, help="Versions younger than this are kept.")] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete old versions that no alias names; needs the right to delete."""
    from lorapar.registry.collect import Retention, collect, collectable

    registry, retention = open_registry(where), Retention(keep, grace_days * 86400)
    names = [_there(registry, name)] if name is not None else registry.names()
    found = [version for one in names for version in collectable(registry, one, retention)]
    for version in found:
        gone = dry_run or collect(registry, version)
        _say(f"{version}: {'would go' if dry_run else 'deleted' if gone else 'kept, an alias was moved to it'}")
    if not found:
        _say("nothing to delete")


def _there(registry: Registry, name: str) -> str:
    """The name of an adapter of the registry; raises BadInputError with the nearest one for any other."""
    if name not in (known := registry.names()):
        raise BadInputError(f"{name}: no such adapter in the registry {registry.address}{nearest(name, known)}")
    return name


def _refuse_other_content(folder: Path) -> None:
    """Raise BadInputError where a pull would replace something that no pull has made."""
    from lorapar.store import refuse_other_content

    complaint = f"{folder}: holds other things than an adapter, and pull replaces a folder; name a new one"
    refuse_other_content(folder, complaint, lambda folder: (folder / "adapter_config.json").is_file())
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{folder}: is a file; name a folder to make")


def _named(alias: str, record: AliasRecord) -> str:
    from lorapar.registry.overview import canary_words

    canary = canary_words(record)
    return f"{alias} {record.version}" + (f" ({canary})" if canary else "")


def _show_table(table: Table) -> None:
    """At a terminal its width is the limit; a program that reads the table gets every line whole."""
    from rich.console import Console

    console = out.console if out.console.is_terminal else Console(width=100_000)
    console.print(table)


def _cell(value: object) -> str:
    """A value as text, shortened where it has to fit into a terminal; brackets in it are no markup."""
    from rich.markup import escape

    text = "–" if value is None else str(value)  # noqa: RUF001
    return escape(text[:37] + "..." if out.console.is_terminal and len(text) > 40 else text)


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
