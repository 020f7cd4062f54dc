"""Check whether the base model at an address, which another server fetches, is the one an adapter was trained on."""

from __future__ import annotations

from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig
from lorapar.errors import LoraparError
from lorapar.registry.package import hub_commit
from lorapar.serving.base_identity import Compared, is_on_hub
from lorapar.store import is_s3, open_store
from lorapar.store.copy import RemoteTree, find_tree

_HUB = "hf://"


def compare_address(base: ModelConfig, uri: str) -> Compared:
    """Compare the model at `s3://…` or `hf://NAME:REVISION` with the base that a lineage names.

    A claim or an image cannot be read from here; then the result is unknown, with the reason.
    """
    if base.digest is None:
        return Compared("same")
    if uri.startswith(_HUB):
        return _with_commit(base, uri.removeprefix(_HUB))
    if not is_s3(uri):
        return Compared("unknown", f"nothing here can look into {uri.partition('://')[0]}://")
    try:
        return _with_tree(base, find_tree(open_store(uri)))
    except LoraparError as error:
        return Compared("unknown", str(error))


def _with_commit(base: ModelConfig, given: str) -> Compared:
    name, _, revision = given.partition(":")
    if not is_on_hub(base) or base.revision is None:
        return Compared("unknown", "a commit of the hub shows nothing of the files that it was trained on")
    if name == base.name and not hub_commit(revision):
        return Compared(
            "unknown", f"{_HUB}{given} names no commit, so it changes with its branch; add :{base.revision}"
        )
    if name != base.name:
        return Compared("unknown", f"{name} is another name on the hub than {base.name}")
    return Compared("same" if revision == base.revision else "other", f"commit {revision}")


def _with_tree(base: ModelConfig, tree: RemoteTree) -> Compared:
    """Compare a mirror by its manifest, and a folder of another tool by the listing that gave its digest."""
    found = f"digest {tree.digest}"
    if tree.digest == base.digest:
        return Compared("same", found)
    if kind_of(base) is Kind.BUCKET and tree.store.address == open_store(base.name).address:
        return Compared("other", found)
    if tree.manifest is None:
        return Compared("unknown", f"{tree.store.address} has no manifest; `lorapar models mirror` writes one")
    if not is_on_hub(base):
        return Compared("other", found)
    mirrored = tree.manifest.kind.removeprefix("model ")
    if mirrored == f"{base.name}@{base.revision}":
        return Compared("same", mirrored)
    return Compared("other", mirrored) if "@" in mirrored else Compared("unknown", f"{mirrored} shows no commit")
