"""Publish an adapter: package it, prove it, describe it. What fails the proof is never seen by anybody."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.config import ModelConfig
from lorapar.progress import Progress
from lorapar.records import write_json
from lorapar.registry import lineage as facts
from lorapar.registry.card import model_card
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import CONFIG_FILE, WEIGHTS_FILE, package_adapter
from lorapar.registry.serving import max_lora_rank
from lorapar.registry.verify import Verification, verify_package
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
class Publication:
    """What is published under which name."""

    name: str
    model: ModelConfig
    origins: Origins
    settings: Mapping[str, Any]
    """Settings for the lineage, as JSON."""
    code: Mapping[str, Any]
    """Version and digests of the code, for the lineage."""


def publish_local(
    publication: Publication, folder: Path, scratch: Path, questions: Sequence[str], progress: Progress
) -> Lineage:
    """Make the plain PEFT folder with model card and lineage.json in `folder`; returns the lineage.

    Everything is made and verified in `scratch` first. Raises BadInputError for an adapter that cannot be published,
    IntegrityError for one that does not answer as the trained model does.
    """
    package = scratch / "package"
    shutil.rmtree(package, ignore_errors=True)
    config = package_adapter(publication.origins.adapter, package, publication.model)
    verification = verify_package(publication.model, publication.origins.adapter, package, questions, progress)
    lineage = _lineage(publication, package, int(config["r"]), verification)
    (package / CARD_FILE).write_text(model_card(lineage), encoding="utf-8")
    write_json(package / LINEAGE_FILE, lineage.model_dump(mode="json"))
    shutil.copytree(package, folder, dirs_exist_ok=True)
    return lineage


def _lineage(publication: Publication, package: Path, rank: int, verification: Verification) -> Lineage:
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
        serving={"rank": rank, "max_lora_rank": max_lora_rank(rank)},
        verification=verification,
        files={name: file_sha256(package / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
    )
