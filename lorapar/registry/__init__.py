"""Published adapters: plain PEFT folders for the unmodified base model, verified, with card and lineage; and the
registry that holds their versions, aliases and verdicts in an object store.

Importable without torch, which only the proof (`verify_package`) needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorapar.config.adapter import VLLM_RANKS, max_lora_rank
from lorapar.registry.aliases import AliasRecord, Move
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import package_adapter, plain_config
from lorapar.registry.promotion import incumbent_for, promote
from lorapar.registry.reference import CANDIDATE, PRODUCTION, Reference, parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.verdicts import Incumbent, Promotion, PublishedVersion, Verdict, read_published, read_verdict
from lorapar.registry.versions import Claim, Version, content_manifest, new_claim

if TYPE_CHECKING:
    from lorapar.registry.card import model_card
    from lorapar.registry.chat_settings import TEMPLATE_FILE, stop_strings, stop_token_ids, stop_words
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
    from lorapar.registry.verify import Verification, verify_package

_FOR_PUBLISHING = {
    "chat_settings": ("TEMPLATE_FILE", "stop_strings", "stop_token_ids", "stop_words"),
    "card": ("model_card",),
    "publish": (
        *("Figure", "Origins", "Proof", "Publication", "Published"),
        *("make_package", "publish_adapter", "refuse_other_base"),
    ),
    "verify": ("Verification", "verify_package"),
}
"""What reads the base model's files or the trained adapter's: imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    for module, names in _FOR_PUBLISHING.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    "stop_strings",
    "stop_token_ids",
    "stop_words",
    "verify_package",
]
