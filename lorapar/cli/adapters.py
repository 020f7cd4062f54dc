"""`lorapar adapters`, the commands that look; those that act are in `lorapar.cli.versions`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli import complete
from lorapar.cli.base import AsJson, app, out, show_document
from lorapar.cli.command import CommandGroup
from lorapar.cli.complete import DEFAULT_REGISTRY
from lorapar.errors import BadInputError, ExitCode, IntegrityError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from lorapar.registry import AliasRecord, Registry
    from lorapar.registry.overview import AdapterRow, VersionRow

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
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="NAME@3, NAME@ALIAS, or NAME for NAME@production.", autocompletion=complete.adapters
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an adapter.", autocompletion=complete.adapter_names)]
OptionalName = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Name of an adapter; absent: all.", autocompletion=complete.adapter_names),
]


def open_registry(where: str | None) -> Registry:
    """The registry that an option, the environment or the default folder names; raises BadInputError."""
    from lorapar.registry import Registry
    from lorapar.store import open_store

    address = (
        where or os.environ.get("LORAPAR_REGISTRY") or (str(DEFAULT_REGISTRY) if DEFAULT_REGISTRY.is_dir() else None)
    )
    if address is None:
        raise BadInputError(
            f"which registry? There is no {DEFAULT_REGISTRY} here; give --registry s3://BUCKET/PREFIX or a folder, or "
            "set LORAPAR_REGISTRY"
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
def list_command(name: OptionalName = None, where: Where = None, as_json: AsJson = False) -> None:
    """List adapters with their aliases; with a name, its versions, the newest first; 6 where one is damaged.

    Examples: `lorapar adapters list`, `lorapar adapters list NAME --json`
    """
    from lorapar.registry.overview import adapter_row, adapter_rows, version_rows

    registry = open_registry(where)
    versions = version_rows(registry, name) if name is not None else None
    rows = adapter_rows(registry) if name is None else [adapter_row(registry, name)]
    if not (rows if versions is None else versions):
        raise BadInputError(f"{registry.address}: no {'adapter' if name is None else f'version of {name}'} in it")
    if as_json:
        from lorapar.cli.fill_documents import adapters_document

        show_document(adapters_document(registry, rows, versions))
    else:
        show_table(_adapter_table(rows) if versions is None else _version_table(versions))
    faults = [one.fault for one in (rows if versions is None else versions) if one.fault]
    if faults:
        more = f" (and {len(faults) - 1} more: `lorapar adapters verify {name or 'NAME'}`)" if len(faults) > 1 else ""
        raise IntegrityError(f"{faults[0]}{more}")


@adapters.command("show")
def show_command(ref: Ref, where: Where = None, as_json: AsJson = False) -> None:
    """Show one version: digest, files, aliases, verdict, and how to serve it.

    Examples: `lorapar adapters show NAME`, `lorapar adapters show NAME@3 --json`
    """
    from lorapar.registry.overview import version_facts, version_lines

    facts = version_facts(open_registry(where), ref)
    if as_json:
        from lorapar.cli.fill_documents import shown_version

        show_document(shown_version(facts))
        return
    print_text(version_lines(facts))


@adapters.command("diff")
def diff_command(
    left: Annotated[str, typer.Argument(metavar="REF", help="The earlier version.", autocompletion=complete.adapters)],
    right: Annotated[str, typer.Argument(metavar="REF", help="The later version.", autocompletion=complete.adapters)],
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: settings and lineage by key, weights by how many numbers moved how far.

    Example: `lorapar adapters diff NAME@3 NAME@candidate`
    """
    from rich.table import Table

    from lorapar.registry.diff import lineage_differences, weight_difference

    registry = open_registry(where)
    differences = lineage_differences(registry, left, right)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        weights = weight_difference(registry, left, right, Path(scratch))
    if as_json:
        from lorapar.cli.fill_documents import diff_document

        names = str(registry.resolve(left)), str(registry.resolve(right))
        show_document(diff_document(names, differences, weights))
        return
    table = Table("what", left, right, box=None, header_style="bold")
    for found in differences:
        table.add_row(found.key, _cell(found.left), _cell(found.right))
    if table.row_count:
        show_table(table)
    else:
        print_text("the lineages are equal")
    print_text(
        f"weights: {weights.changed:,} of {weights.elements:,} numbers in {weights.tensors} tensors differ, by at most "
        f"{weights.largest:.3g}; the difference is {100 * weights.relative:.3g}% of the weights' norm"
        + (f"; {weights.other_tensors} tensors have no counterpart" if weights.other_tensors else "")
    )


@adapters.command("history")
def history_command(
    name: Name,
    where: Where = None,
    alias: Annotated[str | None, typer.Option(help="Only this alias; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the moves of an adapter's aliases, the newest first: which version, when, by whom and why.

    Examples: `lorapar adapters history NAME`, `lorapar adapters history NAME --alias production --json`
    """
    from rich.table import Table

    from lorapar.cli.fill_documents import history_document

    registry = open_registry(where)
    records = registry.aliases(check_known(registry, name))
    if alias is not None and alias not in records:
        raise BadInputError(
            f"{name}@{alias}: no such alias{nearest(alias, sorted(records))}; {name} has: "
            f"{', '.join(sorted(records)) or 'none'}"
        )
    found = history_document(name, records if alias is None else {alias: records[alias]})
    if as_json:
        show_document(found)
        return
    table = Table("moved", "alias", "version", "by", "why", box=None, header_style="bold")
    for move in found.moves:
        why = ": ".join(part for part in ("rollback" if move.rollback else "", move.reason) if part)
        when = move.moved_at[:16].replace("T", " ")
        table.add_row(when, move.alias, str(move.version), move.by, why)
    show_table(table)


@adapters.command("why")
def why_command(
    ref: Ref,
    where: Where = None,
    save: Annotated[Path | None, typer.Option(help="Also write the settings that make it again to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say on one page why a version is what it is: verdict, run, votes, rows, images, and its settings.

    Examples: `lorapar adapters why NAME@production`, `lorapar adapters why NAME@3 --save again.yaml`
    """
    from lorapar.registry import parse_reference
    from lorapar.registry.overview import lineage_of
    from lorapar.registry.why import reproducing_settings, why
    from lorapar.store import write_named_file

    registry = open_registry(where)
    version = registry.resolve(ref)
    if as_json:
        from lorapar.cli.fill_documents import why_document

        show_document(why_document(registry, version, parse_reference(ref).alias))
    else:
        print_text(why(registry, ref).rstrip())
    if save is not None:
        write_named_file(save, reproducing_settings(lineage_of(registry, version)))


@adapters.command("verify")
def verify_command(
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", help="A version or a name; absent: everything.")] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte against the manifests, and every alias; ends with 6 where something is damaged.

    Examples: `lorapar adapters verify`, `lorapar adapters verify NAME@3`
    """
    from lorapar.registry.check import check

    checks = []
    for found in check(open_registry(where), ref):
        checks.append(found)
        if not as_json:
            print_text(f"{found.what}: {found.fault or 'whole'}")
    if as_json:
        from lorapar.cli.documents import CheckDocument, VerifyDocument

        show_document(VerifyDocument(checks=[CheckDocument(what=one.what, fault=one.fault) for one in checks]))
    if any(one.fault is not None for one in checks):
        raise typer.Exit(ExitCode.INTEGRITY)


def check_known(registry: Registry, name: str) -> str:
    """The name of an adapter of the registry; raises BadInputError with the nearest one for any other."""
    if name not in (known := registry.names()):
        raise BadInputError(f"{name}: no such adapter in the registry {registry.address}{nearest(name, known)}")
    return name


def _adapter_table(rows: Iterable[AdapterRow]) -> Table:
    from rich.table import Table

    table = Table("adapter", "versions", "aliases", box=None, header_style="bold")
    for row in rows:
        named = (_named(alias, record) for alias, record in sorted(row.aliases.items()))
        table.add_row(row.name, str(row.versions), "damaged" if row.fault else ", ".join(named))
    return table


def _version_table(rows: Iterable[VersionRow]) -> Table:
    from rich.table import Table

    table = Table("version", "aliases", "verdict", "published", box=None, header_style="bold")
    for found in rows:
        when, aliases = found.published[:16].replace("T", " "), ", ".join(found.aliases)
        table.add_row(str(found.number), aliases, found.verdict, when)
    return table


def _named(alias: str, record: AliasRecord) -> str:
    from lorapar.registry.overview import canary_words

    canary = canary_words(record)
    return f"{alias} {record.version}" + (f" ({canary})" if canary else "")


def show_table(table: Table) -> None:
    """At a terminal its width is the limit; a program that reads the table gets every line whole."""
    from rich.console import Console

    console = out.console if out.console.is_terminal else Console(width=100_000, markup=False, emoji=False)
    console.print(table)


def _cell(value: object) -> str:
    """A value as text, shortened where it has to fit into a terminal; brackets in it are no markup."""

    text = "–" if value is None else str(value)  # noqa: RUF001
    return text[:37] + "..." if out.console.is_terminal and len(text) > 40 else text


def print_text(text: str) -> None:
    """One line or page as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)
