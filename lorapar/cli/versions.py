"""`lorapar adapters`, the commands that act: move aliases, fetch, copy, sign and clear away versions."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.adapters import Name, OptionalName, Ref, Where, adapters, check_known, open_registry, print_text
from lorapar.cli.base import AsJson, reporter, show_document
from lorapar.errors import BadInputError

Reason = Annotated[str, typer.Option(help="Why, for the alias's history.")]


@adapters.command("promote")
def promote_command(
    ref: Ref,
    where: Where = None,
    canary: Annotated[
        float | None, typer.Option(help="Give it this percentage of the requests as `candidate`; production stays.")
    ] = None,
    override: Annotated[str | None, typer.Option(help="Promote despite the verdict; give the reason.")] = None,
) -> None:
    """Move production to a version whose gate found it better than what production names now.

    Examples: `lorapar adapters promote NAME@3`, `lorapar adapters promote NAME@4 --canary 10`
    """
    from lorapar.registry.promotion import promote_by_hand, start_canary

    if canary is not None and override is not None:
        raise BadInputError("--override is not for --canary: a canary needs no verdict, and production stays")
    registry = open_registry(where)
    version = registry.resolve(ref)
    if canary is not None:
        record = start_canary(registry, version, canary)
        print_text(
            f"{version.name}@candidate names version {record.version}, with {record.share_percent:g}% of the requests"
        )
        return
    print_text(promote_by_hand(registry, version, override).reason)


@adapters.command("rollback")
def rollback_command(
    name: Name,
    where: Where = None,
    alias: Annotated[str, typer.Option(help="Alias that goes back.")] = "production",
    to: Annotated[int | None, typer.Option(help="An earlier version; default: the one before.")] = None,
    reason: Reason = "",
) -> None:
    """Move an alias back to the version it named before; runs will not promote what was rolled back.

    Example: `lorapar adapters rollback NAME --reason 'worse answers'`
    """
    from lorapar.registry.promotion import roll_back

    record = roll_back(open_registry(where), name, alias, to, reason)
    print_text(f"{name}@{alias} names version {record.version} again")


@adapters.command("pull")
def pull_command(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(help="Folder to make; an adapter that is there is replaced.")],
    where: Where = None,
) -> None:
    """Fetch a version as a PEFT folder, every byte checked, whole or not at all.

    Example: `lorapar adapters pull NAME@production ./adapter`
    """
    from lorapar.registry.registry import pull_into, require_place
    from lorapar.serving.base_identity import base_of, base_text

    require_place(folder)
    registry = open_registry(where)
    version = pull_into(registry, ref, folder)
    print_text(f"{version} is in {folder}; it fits only the base model {base_text(base_of(registry, version))}")


@adapters.command("push")
def push_command(
    ref: Ref,
    to: Annotated[str, typer.Option(metavar="OWNER/REPO", help="Repository of the hub; made where it is missing.")],
    where: Where = None,
    private: Annotated[bool, typer.Option("--private", help="Make it a private one; refuse a public one.")] = False,
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="Branch; made where it is missing.")] = "main",
) -> None:
    """Copy a version, verified, to the Hugging Face hub; the token is that of HF_TOKEN or `hf auth login`.

    Example: `lorapar adapters push NAME@3 --to OWNER/REPO --private`
    """
    from lorapar.registry.hub import HubTarget, push_to_hub

    pushed = push_to_hub(open_registry(where), ref, HubTarget(to, revision, private))
    print_text(f"{pushed.version} is {'at' if pushed.new else 'there already, nothing was changed:'} {pushed.address}")


@adapters.command("register")
def register_command(
    ref: Ref,
    registry_url: Annotated[str, typer.Option(metavar="URL", help="http(s)://HOST[:PORT] of the Model Registry.")],
    where: Where = None,
) -> None:
    """Register a version, which stays in its bucket, with Kubeflow Model Registry.

    Example: `lorapar adapters register NAME@3 --registry-url http://HOST:8080`
    """
    from lorapar.registry.model_registry import register_version

    done = register_version(open_registry(where), ref, registry_url)
    how = "registered" if done.new else "registered already"
    print_text(f"{done.version} is {how}: registered model {done.model_id}, model version {done.version_id}")


@adapters.command("sign")
def sign_command(
    ref: Ref,
    key: Annotated[Path, typer.Option(help="Ed25519 private key in PEM.")],
    where: Where = None,
) -> None:
    """Sign a version; servers with LORAPAR_TRUSTED_KEYS load nothing that no trusted key has signed.

    Example: `lorapar adapters sign NAME@3 --key signing.pem`
    """
    from lorapar.registry.signature import sign_version

    registry = open_registry(where)
    version = registry.resolve(ref)
    print_text(f"{version} is signed by the key {sign_version(registry.store, version, key)}")


@adapters.command("compact")
def compact_command(
    ref: Ref,
    where: Where = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank; absent: the one that was trained.")] = None,
    max_kl: Annotated[
        float, typer.Option(min=0, help="Publish only where answers differ by no larger mean KL, in nats.")
    ] = 0.001,
    model: Annotated[Path | None, typer.Option(help="A local copy of the base model.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run that made it; absent: the one its claim names.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Ask both the run's held-out rows first.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what each module would lose.")] = False,
) -> None:
    """Pack a version into a smaller LoRA rank, prove it by logits and the gate, and publish it as a new version.

    A server pays for the whole rank, and what PiSSA, OLoRA or a run that goes on publishes has more than was trained.
    No alias is moved. Exit code 10: the gate's paired test finds it worse, and nothing is published.

    Examples: `lorapar adapters compact NAME@3 --dry-run`, `lorapar adapters compact NAME@3 --rank 16 --max-kl 0.01`
    """
    from lorapar.cli.ask import need_torch
    from lorapar.local.gate_again import gate_again, require_no_loss, run_of
    from lorapar.registry.compact import find_packed, pack_version, prove_packed, publish_packed
    from lorapar.serving.here import read_adapter

    if not math.isfinite(max_kl):
        raise BadInputError(f"--max-kl: {max_kl} is no bound; give a number of nats such as 0.001")
    need_torch("adapters compact")
    registry = open_registry(where)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        original = Path(scratch) / "original"
        source = registry.pull(ref, original)
        packing = pack_version(source, original, Path(scratch) / "packed", rank, max_kl)
        for path, error in packing.errors.items():
            print_text(f"{path}: {100 * error:.3g}% of the update's norm is lost")
        print_text(
            f"{source}: rank {packing.from_rank} to {packing.rank}; no module loses more than "
            f"{100 * packing.largest[1]:.3g}%, and none more than 1% from rank {packing.sufficient_rank}"
        )
        if dry_run:
            return
        if (there := find_packed(registry, packing)) is not None:
            print_text(f"{there} has this content already")
            return
        claim = registry.find_claim(source)
        made = run_of(source, claim.run if claim else "", run) if gate else None
        with reporter("compact:") as progress:
            base = read_adapter(str(source), original, model).model
            proof = prove_packed(packing, base, max_kl, progress)
            judged = gate_again(made, original, packing.folder, progress) if made is not None else None
        if judged is not None:
            require_no_loss(source, judged)
        version = publish_packed(registry, packing, proof, judged.model_dump(mode="json") if judged else None)
    print_text(
        f"{version}: mean KL {proof.mean_kl:.3g} nats from {source}, largest logit difference "
        f"{proof.max_logit_difference:.3g}, {proof.equal_greedy_texts} of {proof.prompts} greedy texts equal; no alias "
        "names it"
    )
    print_text(f"gate, {version} against {source}: " + ("; ".join(judged.reasons) if judged else "not run (--no-gate)"))


@adapters.command("gc")
def gc_command(
    name: OptionalName = None,
    where: Where = None,
    keep: Annotated[int, typer.Option(min=0, help="Newest versions kept.")] = 5,
    grace_days: Annotated[float, typer.Option(min=0, help="Versions younger than this are kept.")] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old versions that no alias names; needs the right to delete.

    Examples: `lorapar adapters gc --dry-run`, `lorapar adapters gc NAME --keep 3`
    """
    from lorapar.registry.collect import Retention, collect, collectable

    registry, retention = open_registry(where), Retention(keep, grace_days * 86400)
    names = [check_known(registry, name)] if name is not None else registry.names()
    found = [version for one in names for version in collectable(registry, one, retention)]
    states = []
    for version in found:
        gone = dry_run or collect(registry, version)
        states.append((str(version), "would go" if dry_run else "deleted" if gone else "kept"))
    if as_json:
        from lorapar.cli.documents import AdapterGcDocument

        show_document(AdapterGcDocument.model_validate({"versions": [{"version": v, "state": s} for v, s in states]}))
        return
    for one, state in states:
        print_text(f"{one}: {'kept, an alias was moved to it' if state == 'kept' else state}")
    if not found:
        print_text("nothing to delete")
