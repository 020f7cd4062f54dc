"""Small adapters that each make the tiny model say something else, and what plain PEFT says with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorapar.basemodel import model_folder
from lorapar.config import ModelConfig

BASE = "builtin:tiny"
RANK = 16


def base_folder() -> Path:
    return model_folder(ModelConfig(name=BASE))


def make_adapter(folder: Path, seed: int) -> Path:
    """A LoRA whose effect is far above rounding; another one for each seed."""
    base = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = BASE
    model.save_pretrained(folder)
    (folder / "README.md").write_text(f"adapter {seed}\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and the log-probability of each."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


@cache
def plain_answer(adapter: Path | None, prompt: str, tokens: int = 8) -> Answer:
    """What transformers and PEFT say in float32, without lorapar or vLLM; the end of a turn ends it, uncounted."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    model = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    given = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        made = model.eval().generate(
            **given, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    ids = made.sequences[0, given.input_ids.shape[1] :].tolist()
    log_probs = [float(torch.log_softmax(step[0], -1)[token]) for step, token in zip(made.logits, ids, strict=True)]
    return Answer(tuple(ids), tuple(log_probs))
