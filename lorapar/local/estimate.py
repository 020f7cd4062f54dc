"""About how much memory each stage will need, from sizes alone: for deciding on a machine, not for the last megabyte.

Counted: weights, adapter, gradients, the masked optimiser's moments, activations and logits of one forward pass, the
KV cache of rollouts. Not counted: what the libraries themselves hold (about 0.5 GB) and fragmentation.
"""

from __future__ import annotations

from lorapar.basemodel.shape import ModelShape, model_shape
from lorapar.config import ModelConfig, RunConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes a decoder layer keeps of each token for backward, by hidden and intermediate size: measured on Llama-2-7B and
# Qwen2.5-7B layers in bfloat16 with float32 LoRA on QKVGUD (335 and 412 kB). With checkpointing only its input stays.
_KEPT_BY_HIDDEN, _KEPT_BY_INTERMEDIATE = 48, 13
_KEPT_CHECKPOINTED_BY_HIDDEN = 4
# A model's active share at theta 0.9 as the paper and our own runs found it (36 to 43%); all of it at theta 1.
_ACTIVE_SHARE = 0.45
_LIBRARIES_BYTES = 500_000_000


def stage_memory_bytes(config: RunConfig) -> dict[str, int]:
    """Estimated peak memory of each stage that holds a model, in bytes; empty where the model's sizes are unknown."""
    shape = model_shape(config.model)
    if shape is None:
        return {}
    model = _model_bytes(shape, config.model)
    needs = {
        "vote": max(_vote_bytes(config, position) for position in range(len(config.teachers))),
        "init": model + _adapter_bytes(shape, config),
        "score": model + _adapter_bytes(shape, config) + _score_bytes(shape, config),
        "sft": model + _training_bytes(shape, config) + _sft_pass_bytes(shape, config),
        "rl": model + _training_bytes(shape, config) + _rl_pass_bytes(shape, config),
        "publish": 2 * model + 2 * _adapter_bytes(shape, config),
        "evaluate": model + 2 * _adapter_bytes(shape, config) + _evaluate_bytes(shape, config),
    }
    return {stage: need + _LIBRARIES_BYTES for stage, need in needs.items()}


def _model_bytes(shape: ModelShape, model: ModelConfig) -> int:
    return shape.parameters * _BYTES[model.dtype]


def _adapter_bytes(shape: ModelShape, config: RunConfig) -> int:
    return 4 * shape.lora_elements(config.adapter.layout, held_rank(config))


def held_rank(config: RunConfig) -> int:
    """LoRA rank of the adapter that a run makes, as PEFT and vLLM see it."""
    earlier = (config.model.adapter_source.rank or 0) if config.model.adapter_source else 0
    new = (1 if config.adapter.init == "paper" else 2) * config.adapter.rank
    return earlier if config.model.continue_ else earlier + new


def _trained_rank(config: RunConfig) -> int:
    """At most so much of the rank is trained."""
    return held_rank(config) if config.model.continue_ else config.adapter.rank


def _training_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Adapter, its gradients, and two float32 moments for the active elements only."""
    elements = shape.lora_elements(config.adapter.layout, _trained_rank(config))
    share = 1.0 if config.partition.theta == 1 else _ACTIVE_SHARE
    return 2 * _adapter_bytes(shape, config) + int(8 * share * elements)


def _vote_bytes(config: RunConfig, position: int) -> int:
    teacher = config.teachers[position]
    if teacher.backend == "openai":  # what an endpoint serves takes no memory here, and its name is none of the hub's
        return 0
    model = ModelConfig(name=teacher.model, revision=teacher.revision) if teacher.model else config.model
    shape = model_shape(model)
    return shape.parameters * _BYTES[teacher.dtype] + teacher.batch_size * 512 * shape.vocab * 4 // 8 if shape else 0


def _score_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Gradient and Fisher sums in float64 and the per-example gradients of one batch."""
    elements = shape.lora_elements(config.adapter.layout, _trained_rank(config))
    tokens = config.score.batch_size * config.score.max_length
    return elements * (16 + 4) + _pass_bytes(shape, config.model, tokens, checkpointed=False)


def _sft_pass_bytes(shape: ModelShape, config: RunConfig) -> int:
    tokens = config.sft.batch_size * config.sft.max_length
    return _pass_bytes(shape, config.model, tokens, checkpointed=config.sft.gradient_checkpointing)


def _rl_pass_bytes(shape: ModelShape, config: RunConfig) -> int:
    rl = config.rl
    length = rl.max_prompt_length + rl.max_completion_length
    tokens = rl.batch_size * length
    rollouts = rl.batch_size * rl.gradient_accumulation * length * _kv_bytes(shape, config.model)
    return max(rollouts, _pass_bytes(shape, config.model, tokens, checkpointed=rl.gradient_checkpointing))


def _evaluate_bytes(shape: ModelShape, config: RunConfig) -> int:
    length = config.score.max_length + config.evaluate.max_new_tokens
    return config.evaluate.batch_size * length * _kv_bytes(shape, config.model)


def _kv_bytes(shape: ModelShape, model: ModelConfig) -> int:
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _BYTES[model.dtype]


def _pass_bytes(shape: ModelShape, model: ModelConfig, tokens: int, *, checkpointed: bool) -> int:
    """Activations kept for backward, and logits with their gradient in float32."""
    layer = _KEPT_BY_HIDDEN * shape.hidden + _KEPT_BY_INTERMEDIATE * shape.intermediate
    if checkpointed:
        layer = _KEPT_CHECKPOINTED_BY_HIDDEN * shape.hidden
    wider = 2 if model.dtype == "float32" and model.autocast == "none" else 1
    return tokens * (shape.layers * layer * wider + shape.vocab * 4 * 2)
