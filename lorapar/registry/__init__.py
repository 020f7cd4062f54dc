"""Published adapters: plain PEFT folders for the unmodified base model, verified, with card and lineage.

Importable without torch, which only the proof (`verify_package`) needs.
"""

from lorapar.registry.card import model_card
from lorapar.registry.lineage import LINEAGE_FILE, Lineage
from lorapar.registry.package import package_adapter, plain_config
from lorapar.registry.publish import Origins, Publication, publish_local
from lorapar.registry.serving import VLLM_RANKS, max_lora_rank
from lorapar.registry.verify import Verification, verify_package

__all__ = [
    "LINEAGE_FILE",
    "VLLM_RANKS",
    "Lineage",
    "Origins",
    "Publication",
    "Verification",
    "max_lora_rank",
    "model_card",
    "package_adapter",
    "plain_config",
    "publish_local",
    "verify_package",
]
