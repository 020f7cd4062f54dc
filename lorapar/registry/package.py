"""The published folder: a plain LoRA that PEFT and serving engines load on the unmodified base model.

DoRA, IA3, prompt and prefix tuning are published too, for PEFT; no engine serves them.

An adapter in training already holds its start as the negated second half of one LoRA (rank 2r), so publishing copies
its weights byte for byte and only says in the configuration what a stranger needs to know.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorapar.config import ModelConfig
from lorapar.config.adapter import kind_of_peft, max_lora_rank
from lorapar.errors import BadInputError
from lorapar.records import read_json, write_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What makes a LoRA more than a plain one; serving engines refuse or ignore it.
_NOT_PLAIN = ("lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters")


def package_adapter(trained: Path, folder: Path, model: ModelConfig) -> dict[str, Any]:
    """Write the PEFT files of a trained adapter into `folder`; returns the configuration it wrote.

    Raises BadInputError where the trained folder is no adapter, or one of a kind that no run makes.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (trained / name).is_file():
            raise BadInputError(f"{trained} is not an adapter folder: it has no {name}")
    config = plain_config(read_json(trained / CONFIG_FILE), model)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, config)
    return config


def plain_config(trained: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """adapter_config.json for use: the base by its public name, no init mark, nothing left to train."""
    special = [key for key in _NOT_PLAIN if trained.get(key)]
    if kind_of_peft(trained) == "other" or special or trained.get("bias", "none") != "none":
        raise BadInputError(
            f"{CONFIG_FILE}: only a plain LoRA can be published, or DoRA, IA3, prompt and prefix tuning; this one has "
            f"{', '.join(special) or 'another type'}"
        )
    return {
        **trained,
        "base_model_name_or_path": model.name,
        "revision": hub_commit(model.revision),
        **({"init_lora_weights": True} if trained["peft_type"] == "LORA" else {}),
        "inference_mode": True,
    }


def hub_commit(revision: str | None) -> str | None:
    """The revision if it is a commit; others (a wheel's) mean nothing to those who load the adapter."""
    return revision if revision and _COMMIT.fullmatch(revision) else None


def serving_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a lineage says of serving: the rank and vLLM's setting for it, or the kind where it is no plain LoRA."""
    kind, rank = kind_of_peft(config), config.get("r")
    if kind != "lora":
        return {"kind": kind, "rank": rank, "max_lora_rank": None}
    return {"rank": rank, "max_lora_rank": max_lora_rank(int(config["r"]))}
