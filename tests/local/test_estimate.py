"""The terms of a stage's memory by themselves; tests/benchmarks/bench_memory.py holds their sums against peaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from lorapar.adapter import AdapterSettings, attach, lora_parameters, masked_training, trainable_slice
from lorapar.basemodel import load_model
from lorapar.config import RunConfig, load_config
from lorapar.local.estimate import StageMemory, cards_text, stage_memory

RANK = 8
ROWS, TOKENS = 4, 64
SIZES = {"vocab_size": 300, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
GIVEN = [
    *(f"adapter.rank={RANK}", "partition.theta=1.0", "adapter.dropout=0.05"),
    *(f"sft.batch_size={ROWS}", f"sft.max_length={TOKENS}", "sft.gradient_accumulation=1"),
    *("rl.max_prompt_length=24", "rl.max_completion_length=8"),
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def built(request, tmp_path_factory) -> tuple[RunConfig, dict[str, StageMemory], PeftModel]:
    """Settings, what is estimated of them, and the model that they make."""
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).save_pretrained(folder)
    config = load_config(preset="tiny", overrides=[*GIVEN, f"model.name={folder}", f"model.dtype={request.param}"])
    model = attach(load_model(config.model), AdapterSettings(rank=RANK, alpha=16, dropout=0.05), seed=0)
    return config, stage_memory(config, "cuda", gpus=1), model.train()


def held_for_backward(model: PeftModel) -> int:
    """Bytes that the decoder keeps of its rows between forward and backward, beside its own weights."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    read = model.get_input_embeddings()(torch.randint(3, 300, (ROWS, TOKENS))).detach()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        left = model.base_model.model.model(inputs_embeds=read, use_cache=False).last_hidden_state
    left.float().sum().backward()
    return sum(kept.values())


def test_each_term_of_training_is_what_torch_holds(built) -> None:
    _, planned, model = built
    assert planned["sft"].activations == pytest.approx(held_for_backward(model), rel=0.15)
    tensors = lora_parameters(model)
    adapter = sum(one.nbytes for one in tensors.values())
    assert planned["sft"].adapter == pytest.approx(adapter, rel=0.01)
    assert planned["rl"].adapter == pytest.approx(2 * adapter, rel=0.01), "TRL copies it"
    gradients = sum(one.grad.nbytes for one in tensors.values() if one.grad is not None)
    assert planned["sft"].gradients == pytest.approx(gradients, rel=0.01)
    mask = {name: torch.ones_like(trainable_slice(name, one, RANK), dtype=torch.bool) for name, one in tensors.items()}
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(lr=1e-3)
        optimizer.step()
    assert planned["sft"].moments == pytest.approx(optimizer.moment_bytes(), rel=0.15)


def test_the_cache_of_rollouts_is_what_transformers_holds(built) -> None:
    config, planned, model = built
    completions = config.rl.batch_size * config.rl.gradient_accumulation
    with torch.no_grad():
        cache = model.get_base_model()(torch.zeros(completions, 32, dtype=torch.long), use_cache=True).past_key_values
    tensors = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    drawing = 4 * 4 * completions * SIZES["vocab_size"]
    assert planned["rl"].kv_cache - drawing == pytest.approx(tensors, rel=0.01)


LLAMA_2_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}


def test_what_samples_the_completions_is_counted_where_it_is(tmp_path: Path) -> None:
    """vLLM's engine holds the base once more; a server has a GPU of its own; only transformers fills our cache."""
    LlamaConfig(**LLAMA_2_7B, num_attention_heads=32).save_pretrained(tmp_path)
    given = [f"model.name={tmp_path}", "model.dtype=bfloat16", "rl.gradient_checkpointing=true"]
    server = ["rl.rollouts=server", "rl.server.endpoint=http://rollouts:8000/v1"]
    ways = {"plain": [], "server": server, "vllm": ["rl.rollouts=vllm"]}
    ways["awake"] = [*ways["vllm"], "rl.vllm.sleep=false"]
    ways["on two"] = [*ways["vllm"], "rl.vllm.tensor_parallel_size=2", "processes=1"]
    rl = {
        name: stage_memory(load_config(preset="tiny", overrides=[*given, *more]), "cuda", gpus=1)["rl"]
        for name, more in ways.items()
    }
    assert [rl[name].kv_cache > 0 for name in ways] == [True, False, False, False, False]
    assert [rl[name].engine > rl[name].weights for name in ways] == [False, False, True, True, False]
    assert rl["on two"].engine == rl["vllm"].engine // 2
    asleep, awake = rl["vllm"], rl["awake"]
    learning = asleep.activations + asleep.logits
    assert asleep.total_bytes - rl["server"].total_bytes == max(0, asleep.engine - learning)
    assert awake.total_bytes - rl["server"].total_bytes == asleep.engine
    # Of 48 GB vLLM takes 30%, 15.5 GB, which holds its 13.5 GB of weights; 40 GB would leave it 12.9 GB.
    assert cards_text(rl["server"]) == "fits one T4"
    assert cards_text(asleep) == "fits one L40S"
    assert "engine 13.6" in asleep.description
    large = replace(asleep, engine=60_000_000_000)
    assert cards_text(large) == (
        "with vLLM's engine fits no card at rl.vllm.gpu_memory_utilization; with rl.rollouts server fits one T4"
    )
