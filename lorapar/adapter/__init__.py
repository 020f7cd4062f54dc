"""The method itself, on tensors: attach LoRA, score its elements, partition them, train one system's part.

    model = attach(base_model, AdapterSettings(), seed=0)
    scores = {system: score_elements(model, batches[system]) for system in ("system1", "system2")}
    partition = partition_elements(scores, theta=0.9, shared={"system1": 1.0, "system2": 1.0})
    with masked_training(model, partition.mask("system1")) as masked:
        SFTTrainer(model, optimizers=(masked.optimizer(lr=2e-4), None), ...).train()
    save_adapter(model, "adapter")

Source: Huang, Li, Tang, Chen, "LoRA-PAR", Findings of EMNLP 2025 (arXiv 2507.20999). `docs/method.md` says where
and why this departs from the authors' example.
"""

from __future__ import annotations

from lorapar.adapter.attach import attach, attach_again
from lorapar.adapter.digest import base_digest
from lorapar.adapter.earlier import EarlierAdapter, read_earlier
from lorapar.adapter.folder import add_changes, copy_adapter, load_adapter, rank_in, save_adapter
from lorapar.adapter.kinds import is_prompt, kind_of, take_off
from lorapar.adapter.layout import LAYOUTS, ROLES, Targets, find_targets, resolve_layout
from lorapar.adapter.masked_training import MaskedTraining, masked_training
from lorapar.adapter.names import adapter_parameters, layer_and_module, lora_parameters, trainable_slice
from lorapar.adapter.optimiser import MaskedAdamW
from lorapar.adapter.partition import Partition, RegionCount, SystemSizes
from lorapar.adapter.partitioning import (
    combined,
    only,
    partition_elements,
    random_partition_like,
    unmasked,
    whole_partition,
)
from lorapar.adapter.scores import load_scores, save_scores
from lorapar.adapter.scoring import ScoreAccumulator, score_elements
from lorapar.adapter.settings import (
    INITS,
    WHOLE_KINDS,
    AdapterMark,
    AdapterSettings,
    adapter_mark,
    assert_trainable,
    trainable_rank,
)
from lorapar.adapter.sweep import SweepRow, sweep
from lorapar.adapter.verify import Moved, check_frozen, check_only_active_moved, snapshot

__all__ = [
    "INITS",
    "LAYOUTS",
    "ROLES",
    "WHOLE_KINDS",
    "AdapterMark",
    "AdapterSettings",
    "EarlierAdapter",
    "MaskedAdamW",
    "MaskedTraining",
    "Moved",
    "Partition",
    "RegionCount",
    "ScoreAccumulator",
    "SweepRow",
    "SystemSizes",
    "Targets",
    "adapter_mark",
    "adapter_parameters",
    "add_changes",
    "assert_trainable",
    "attach",
    "attach_again",
    "base_digest",
    "check_frozen",
    "check_only_active_moved",
    "combined",
    "copy_adapter",
    "find_targets",
    "is_prompt",
    "kind_of",
    "layer_and_module",
    "load_adapter",
    "load_scores",
    "lora_parameters",
    "masked_training",
    "only",
    "partition_elements",
    "random_partition_like",
    "rank_in",
    "read_earlier",
    "resolve_layout",
    "save_adapter",
    "save_scores",
    "score_elements",
    "snapshot",
    "sweep",
    "take_off",
    "trainable_rank",
    "trainable_slice",
    "unmasked",
    "whole_partition",
]
