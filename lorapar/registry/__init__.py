"""Published adapters: plain PEFT folders for the unmodified base model, verified, with card and lineage; and the
registry that holds their versions, aliases and verdicts in an object store.

Importable without torch, which only the proof (`verify_package`) needs.
"""

from lorapar.registry.aliases import AliasRecord, Move
from lorapar.registry.card import model_card
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import package_adapter, plain_config
from lorapar.registry.publish import Origins, Publication, publish_local
from lorapar.registry.reference import CANDIDATE, PRODUCTION, Reference, parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.serving import VLLM_RANKS, max_lora_rank
from lorapar.registry.verify import Verification, verify_package
from lorapar.registry.versions import Claim, Version, content_manifest, new_claim

__all__ = [
    "CANDIDATE",
    "LINEAGE_FILE",
    "PRODUCTION",
    "VLLM_RANKS",
    "AliasRecord",
    "Claim",
    "Lineage",
    "Move",
    "Origins",
    "Publication",
    "Reference",
    "Registry",
    "Verification",
    "Version",
    "content_manifest",
    "max_lora_rank",
    "model_card",
    "new_claim",
    "package_adapter",
    "parse_reference",
    "plain_config",
    "publish_local",
    "verify_package",
]
