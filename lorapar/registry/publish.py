"""Publish an adapter: package it, prove it, describe it, give it a version. What fails the proof is never seen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.records import write_json
from lorapar.registry import lineage as facts
from lorapar.registry.card import model_card
from lorapar.registry.chat_settings import ChatSettings
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.overview import lineage_of
from lorapar.registry.package import CONFIG_FILE, WEIGHTS_FILE, package_adapter, serving_facts
from lorapar.registry.reference import CANDIDATE
from lorapar.registry.registry import Registry
from lorapar.registry.start import trained_rank
from lorapar.registry.verify import verify_package
from lorapar.registry.versions import Version, content_manifest, new_claim
from lorapar.store import file_sha256

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Origins:
    """Sealed folders of the artifacts an adapter was made from."""

    adapter: Path
    """The trained adapter."""
    examples: Path
    votes: tuple[Path, ...]
    labels: Path
    partition: Path


@dataclass(frozen=True)
class Figure:
    """A picture for the model card."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Publication:
    """What is published under which name."""

    name: str
    model: ModelConfig
    origins: Origins
    settings: Mapping[str, Any]
    """Settings for the lineage, as JSON."""
    code: Mapping[str, Any]
    """Version and digests of the code, for the lineage."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Pictures by file name, such as `figures/reward.svg`."""
    picked: Mapping[str, Any] | None = None
    """What the adapter was picked of, for the lineage; None: it is the one that training ended with."""


@dataclass(frozen=True)
class Published:
    """A version, and what proved it."""

    version: Version
    lineage: Lineage
    verification: dict[str, Any]
    """As `lorapar.registry.verify.Verification` has it; of the first time, where the content was there already."""
    recalled: bool = field(default=False, compare=False)
    """Whether the content was there already, so that nothing was proved now."""


def make_package(publication: Publication, folder: Path) -> Lineage:
    """Make the plain PEFT folder with model card, figures and lineage.json: equal inputs, equal bytes.

    Raises BadInputError for an adapter that cannot be published.
    """
    shutil.rmtree(folder, ignore_errors=True)
    config = package_adapter(publication.origins.adapter, folder, publication.model)
    chat = ChatSettings.of_training(publication.origins.adapter, publication.model).write(folder)
    lineage = _lineage(publication, folder, serving_facts(config), chat)
    for file, figure in publication.figures.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(figure.svg, encoding="utf-8")
    captions = {file: figure.caption for file, figure in publication.figures.items()}
    (folder / CARD_FILE).write_text(model_card(lineage, captions), encoding="utf-8")
    write_json(folder / LINEAGE_FILE, lineage.content())
    return lineage


@dataclass(frozen=True)
class Proof:
    """How a package is proved, and who says so."""

    questions: Sequence[str]
    """Prompts for both the package and the trained model."""
    progress: Progress
    run: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    trackers: Mapping[str, str] = field(default_factory=dict)


def publish_adapter(publication: Publication, registry: Registry, scratch: Path, proof: Proof) -> Published:
    """Make a package in `scratch/package`, prove it, and make it a version with the alias `candidate`.

    Content that the registry has already was proved when it came, and keeps its version. Raises BadInputError for an
    adapter that cannot be published, IntegrityError for one that does not answer as the trained model does.
    """
    package = scratch / "package"
    lineage = make_package(publication, package)
    manifest = content_manifest(package)
    put_back = registry.mend_manifest(publication.name, package, manifest)
    if put_back is not None:
        proof.progress.log(f"{put_back}: its manifest was damaged in the registry and is put back")
    version = registry.find(publication.name, manifest.digest)
    proved = registry.find_claim(version) if version is not None else None
    if version is not None and proved is not None:
        verification = proved.verification
        proof.progress.log(f"{version} has this content already; it was verified when it came")
        fixed = registry.restore(version, package)
        if fixed:
            proof.progress.log(f"{version} was damaged in the registry and is whole again: {', '.join(fixed)}")
    else:
        trained = publication.origins.adapter
        found = verify_package(publication.model, trained, package, proof.questions, proof.progress)
        verification = found.model_dump(mode="json", exclude_none=True)
        claim = new_claim(
            manifest.digest,
            run=proof.run,
            images=dict(proof.images),
            verification=verification,
            trackers=dict(proof.trackers),
        )
        version = registry.publish(publication.name, package, claim, manifest)
    registry.set_alias(publication.name, CANDIDATE, version.number, reason="published")
    return Published(version, lineage, verification, recalled=proved is not None)


def refuse_other_base(registry: Registry, version: Version, model: ModelConfig, adapter: Path) -> None:
    """Raise BadInputError where a version was made for another base model: the two cannot be compared.

    What the base is called does not count. Identities of two kinds, of a hub's commit and of a folder's files, say
    nothing of each other: then the weights decide, which `adapter` was trained on.
    """
    lineage = lineage_of(registry, version)
    base, weights = lineage.get("base", {}), facts.base_weights(adapter)
    name, digest = base.get("name"), base.get("digest")
    is_same = digest == model.digest and (digest is not None or name == model.name)
    if not is_same and name is not None and weights is not None and _kind(base) != kind_of(model):
        is_same = lineage.get("training", {}).get("base_weights_sha256") == weights
    if not is_same:
        raise BadInputError(
            f"{version}, which is in production, was made for the base model {name} ({digest}), and "
            f"this one for {model.name} ({model.digest}); publish it under another `name`"
        )


def _kind(base: Mapping[str, Any]) -> Kind:
    return kind_of(ModelConfig(name=base["name"], revision=base.get("revision")))


def _lineage(publication: Publication, package: Path, serving: Mapping[str, Any], chat: Mapping[str, Any]) -> Lineage:
    origins = publication.origins
    return Lineage(
        name=publication.name,
        base=facts.base_facts(publication.model),
        data=facts.data_facts(origins.examples),
        teachers=facts.teacher_facts(origins.votes),
        votes=facts.digests(origins.votes),
        labels=facts.label_facts(origins.labels),
        partition=facts.partition_facts(origins.partition),
        training=facts.training_facts(origins.adapter, WEIGHTS_FILE),
        settings=dict(publication.settings),
        code=dict(publication.code),
        serving={**serving, **chat},
        files={name: file_sha256(package / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        picked=None if publication.picked is None else dict(publication.picked),
        parent=facts.parent_facts(publication.model, trained_rank(origins.adapter, serving["rank"] or 1)),
    )
