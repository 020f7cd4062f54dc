"""Published adapters: plain PEFT folders for the unmodified base model, verified, with card and lineage; and the
registry that holds their versions, aliases and verdicts in an object store.

Importable without torch, which only the proof (`verify_package`) needs.
"""

from lorapar.registry.aliases import AliasRecord, Move
from lorapar.registry.asking import TEMPLATE_FILE, stop_token_ids, stop_words
from lorapar.registry.card import model_card
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import package_adapter, plain_config
from lorapar.registry.promotion import incumbent_for, promote
from lorapar.registry.publish import (
    Figure,
    Origins,
    Proof,
    Publication,
    Published,
    make_package,
    publish_adapter,
    refuse_other_base,
)
from lorapar.registry.reference import CANDIDATE, PRODUCTION, Reference, parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.serving import VLLM_RANKS, max_lora_rank
from lorapar.registry.verdict import Incumbent, Promotion, PublishedVersion, Verdict, read_published, read_verdict
from lorapar.registry.verify import Verification, verify_package
from lorapar.registry.versions import Claim, Version, content_manifest, new_claim

__all__ = [
    "CANDIDATE",
    "LINEAGE_FILE",
    "PRODUCTION",
    "TEMPLATE_FILE",
    "VLLM_RANKS",
    "AliasRecord",
    "Claim",
    "Figure",
    "Incumbent",
    "Lineage",
    "Move",
    "Origins",
    "Promotion",
    "Proof",
    "Publication",
    "Published",
    "PublishedVersion",
    "Reference",
    "Registry",
    "Verdict",
    "Verification",
    "Version",
    "content_manifest",
    "incumbent_for",
    "make_package",
    "max_lora_rank",
    "model_card",
    "new_claim",
    "package_adapter",
    "parse_reference",
    "plain_config",
    "promote",
    "publish_adapter",
    "read_published",
    "read_verdict",
    "refuse_other_base",
    "stop_token_ids",
    "stop_words",
    "verify_package",
]
