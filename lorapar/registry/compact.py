"""A published version packed into a smaller rank, proved against the one it comes from, as a version of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import ModelConfig
from lorapar.config.adapter import max_lora_rank
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Progress
from lorapar.records import read_json, write_json
from lorapar.registry.card import model_card
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import CONFIG_FILE, WEIGHTS_FILE
from lorapar.registry.publish import CARD_FILE
from lorapar.registry.registry import Registry
from lorapar.registry.start import trained_rank
from lorapar.registry.verify import QUESTIONS, Verification, compare_packages
from lorapar.registry.versions import Version, content_manifest, new_claim
from lorapar.store import file_sha256
from lorapar.store.file_system import copy_files

if TYPE_CHECKING:
    from lorapar.adapter.compact import PackedModule

SMALL_ERROR = 0.01
"""Relative error of a module that a message calls small."""
_PLOT = re.compile(r"!\[(?P<caption>[^\]]*)\]\((?P<file>figures/[^)]+)\)")


@dataclass(frozen=True)
class Packing:
    """A version in a smaller rank, in a folder; not published yet."""

    source: Version
    folder: Path
    original: Path
    """Folder of the version it comes from."""
    from_rank: int
    rank: int
    errors: dict[str, float]
    """Relative error in the Frobenius norm, by the path of the module."""
    sufficient_rank: int
    """The smallest rank at which no module's error is above `SMALL_ERROR`."""

    @property
    def largest(self) -> tuple[str, float]:
        """Path and relative error of the module that loses most."""
        return max(self.errors.items(), key=lambda pair: pair[1])


def pack_version(source: Version, original: Path, folder: Path, rank: int | None, max_kl: float) -> Packing:
    """Make `folder` a PEFT folder of a smaller rank from that of a version, with card and lineage.

    `rank` absent: the one that was trained. Raises BadInputError where that is not smaller than the version's, and
    for a version without lineage.
    """
    from lorapar.adapter.compact import pack, sufficient_rank
    from lorapar.adapter.earlier import read_earlier

    if not (original / LINEAGE_FILE).is_file():
        raise BadInputError(f"{source}: has no {LINEAGE_FILE}, so a packed version could not say where it comes from")
    adapter = read_earlier(original, str(source), "")
    if rank is None:
        rank = trained_rank(original, adapter.rank)
        if rank == adapter.rank:
            raise BadInputError(
                f"{source}: its LoRA rank is {rank}, which is what was trained; nothing to pack, or give --rank"
            )
    packed = pack(adapter, rank)
    errors = {path: one.relative_error for path, one in packed.items()}
    copy_files(original, folder, left_out=("manifest.json", CARD_FILE))
    _write_peft(folder, packed, rank, adapter.scale)
    facts = {
        "version": str(source),
        "digest": source.digest,
        "rank": adapter.rank,
        "largest_relative_error": float(f"{max(errors.values()):.4g}"),
        "max_kl": max_kl,
    }
    _write_lineage(folder, original, rank, facts)
    return Packing(source, folder, original, adapter.rank, rank, errors, sufficient_rank(packed, SMALL_ERROR))


def find_packed(registry: Registry, packing: Packing) -> Version | None:
    """The version that has a packing's content already."""
    return registry.find(packing.source.name, content_manifest(packing.folder).digest)


def prove_packed(packing: Packing, model: ModelConfig, max_kl: float, progress: Progress) -> Verification:
    """Compare a packing with the version it comes from under plain PEFT.

    Raises IntegrityError where the mean KL divergence of its answers is above `max_kl` nats.
    """
    found = compare_packages(model, packing.original, packing.folder, QUESTIONS, progress)
    if not found.mean_kl <= max_kl:  # also NaN
        path, error = packing.largest
        raise IntegrityError(
            f"{packing.source} in rank {packing.rank} does not answer as it does in rank {packing.from_rank}, so it is "
            f"not published: mean KL {found.mean_kl:g} nats, more than --max-kl {max_kl:g}, and '{path}' loses "
            f"{100 * error:.3g}% of its norm; every module keeps {100 * (1 - SMALL_ERROR):g}% from "
            f"--rank {packing.sufficient_rank}"
        )
    return found


def publish_packed(
    registry: Registry, packing: Packing, proof: Verification, gate: Mapping[str, Any] | None
) -> Version:
    """Make a packing a version, with its proof and what the gate found; no alias is moved.

    A verdict on the source is none on it, so `promote` wants one of its own or a reason.
    """
    manifest = content_manifest(packing.folder)
    before = registry.find_claim(packing.source)
    claim = new_claim(
        manifest.digest,
        run=before.run if before else "",
        images=dict(before.images) if before else None,
        verification={**proof.model_dump(mode="json", exclude_none=True), **({"gate": dict(gate)} if gate else {})},
    )
    return registry.publish(packing.source.name, packing.folder, claim, manifest)


def _write_peft(folder: Path, packed: Mapping[str, PackedModule], rank: int, scale: float) -> None:
    from lorapar.adapter.files import write_tensors

    tensors = {}
    for path, one in packed.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = one.a
        tensors[f"base_model.model.{path}.lora_B.weight"] = one.b
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
    alpha = scale * rank
    whole = {"lora_alpha": int(alpha) if alpha == int(alpha) else alpha, "use_rslora": False}
    write_json(folder / CONFIG_FILE, {**read_json(folder / CONFIG_FILE), "r": rank, **whole})


def _write_lineage(folder: Path, original: Path, rank: int, facts: dict[str, Any]) -> None:
    before = Lineage.model_validate(read_json(original / LINEAGE_FILE))
    lineage = before.model_copy(
        update={
            "compacted": facts,
            "serving": {**before.serving, "rank": rank, "max_lora_rank": max_lora_rank(rank)},
            "files": {name: file_sha256(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        }
    )
    card = original / CARD_FILE
    plots = _PLOT.finditer(card.read_text(encoding="utf-8")) if card.is_file() else ()
    captions = {found["file"]: found["caption"] for found in plots}
    (folder / CARD_FILE).write_text(model_card(lineage, captions), encoding="utf-8")
    write_json(folder / LINEAGE_FILE, lineage.content())
