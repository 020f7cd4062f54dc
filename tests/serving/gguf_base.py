"""Base models in GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes them, and LoRA on them as PEFT saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorapar.serving.gguf_lora import FAMILIES

HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_DIM, FEED_FORWARD, CONTEXT = 64, 4, 2, 16, 96, 512
SETTINGS: dict[str, dict[str, Any]] = {
    "granite": {"attention_multiplier": 0.3, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "smollm3": {"no_rope_layer_interval": 4, "num_hidden_layers": 4},
}
"""What families have beside sizes; llama.cpp leaves out rotary embedding in every fourth layer of a SmolLM3."""


def tiny_model(family: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A random model whose logits are far apart."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**values, **SETTINGS.get(family, {})}))
        for name, parameter in model.named_parameters():
            parameter.data = torch.randn_like(parameter) * 0.15 + ("norm" in name)
    return model.float().eval()


def save_lora(model: PreTrainedModel, folder: Path, targets: list[str] | str = "all-linear", **config: Any) -> Path:
    """A LoRA adapter that moves the logits; the model is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=targets, **config)
        )
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(std=0.1)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    adapted.unload()
    return folder


def write_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> Path:
    """The model in float32, its vocabulary without the rule that splits text: prompts come as token ids."""
    config, family = model.config, FAMILIES[model.config.model_type]
    architecture = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    writer = gguf.GGUFWriter(file, family.architecture)
    _write_sizes(writer, config)
    _write_vocabulary(writer, tokenizer)
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        stem, suffix = name.rsplit(".", 1)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if family.interleaved and stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(f"{table.get_name(stem)}.{suffix}", value.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type == "phi3":
        writer.add_sliding_window(0)


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokenizer))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
