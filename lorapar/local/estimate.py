"""About how much memory each stage will need, from sizes alone: for deciding on a machine, not for the last megabyte.

Counted: weights, adapter, gradients, the masked optimiser's moments, activations and logits of one forward pass, the
KV cache of rollouts, and 0.5 GB that CUDA's context or the libraries hold. Not counted: fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

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
# Constants of nf4 a weight: one float32 a block of 64, or one byte and a float32 for 256 of these.
_BLOCK_BYTES = 4 / 64
_DOUBLE_BLOCK_BYTES = 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class StageMemory:
    """Estimated peak memory of a stage by its terms, in bytes; what a stage does not hold is 0."""

    weights: int
    """Of the base, as it is held: in its number format, or in 8 or 4 bits."""
    adapter: int = 0
    gradients: int = 0
    moments: int = 0
    """The optimiser's, or the sums that scoring keeps."""
    activations: int = 0
    logits: int = 0
    kv_cache: int = 0
    context: int = _LIBRARIES_BYTES
    """CUDA's context, or what the libraries hold."""

    @property
    def total_bytes(self) -> int:
        """All terms, of which rollouts' cache and the learning pass are not there at once."""
        passing = max(self.activations + self.logits, self.kv_cache)
        return self.weights + self.adapter + self.gradients + self.moments + passing + self.context

    @property
    def said(self) -> str:
        """The terms of 10 MB and more, largest first, in GB."""
        terms = sorted(((getattr(self, one.name), one.name) for one in fields(self)), reverse=True)
        return ", ".join(f"{name.replace('_', ' ')} {size / 1e9:.2f}" for size, name in terms if size >= 10_000_000)


def stage_memory_bytes(config: RunConfig) -> dict[str, int]:
    """Estimated peak memory of each stage that holds a model, in bytes; empty where the model's sizes are unknown."""
    return {stage: memory.total_bytes for stage, memory in stage_memory(config).items()}


def stage_memory(config: RunConfig) -> dict[str, StageMemory]:
    """The same by its terms."""
    shape = model_shape(config.model)
    if shape is None:
        return {}
    weights, adapter = base_bytes(shape, config.model), _adapter_bytes(shape, config)
    share = 1.0 if config.partition.theta == 1 else _ACTIVE_SHARE
    elements = shape.lora_elements(config.adapter.layout, _trained_rank(config))
    trained = {"adapter": adapter, "gradients": adapter, "moments": int(8 * share * elements)}
    return {
        "vote": StageMemory(max(_vote_bytes(config, position) for position in range(len(config.teachers)))),
        "init": StageMemory(weights, adapter),
        "score": StageMemory(weights, adapter, 4 * elements, 16 * elements, **_score_pass(shape, config)),
        "sft": StageMemory(weights, **trained, **_sft_pass(shape, config)),
        "rl": StageMemory(weights, **trained, **_rl_pass(shape, config)),
        "publish": StageMemory(_published_bytes(shape, config.model), 2 * adapter),
        "evaluate": StageMemory(weights, 2 * adapter, kv_cache=_evaluate_bytes(shape, config)),
    }


def base_bytes(shape: ModelShape, model: ModelConfig) -> int:
    """The base's weights in memory. Quantised ones take their bits and the constants of their blocks."""
    if model.quantization == "none":
        return shape.parameters * _BYTES[model.dtype]
    kept = shape.hidden * shape.vocab * (1 if shape.tied else 2)
    if model.quantization == "int8":
        a_weight = 1.0
    else:
        a_weight = 0.5 + (_BLOCK_BYTES if model.double_quantization is False else _DOUBLE_BLOCK_BYTES)
    return int((shape.parameters - kept) * a_weight) + kept * _BYTES[model.dtype]


def _published_bytes(shape: ModelShape, model: ModelConfig) -> int:
    """Two bases at most; of a quantised one the full base is looked at afterwards, where it fits."""
    return 2 * base_bytes(shape, model)


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


def _vote_bytes(config: RunConfig, position: int) -> int:
    teacher = config.teachers[position]
    if teacher.backend == "openai":  # what an endpoint serves takes no memory here, and its name is none of the hub's
        return 0
    model = ModelConfig(name=teacher.model, revision=teacher.revision) if teacher.model else config.model
    shape = model_shape(model)
    if shape is None:
        return 0
    # vLLM takes the full base, the other backend the one that is tuned, in the teacher's own number format.
    loaded = (model.full if teacher.backend == "vllm" else model).model_copy(update={"dtype": teacher.dtype})
    return base_bytes(shape, loaded) + teacher.batch_size * 512 * shape.vocab * 4 // 8


def _score_pass(shape: ModelShape, config: RunConfig) -> dict[str, int]:
    return _pass_bytes(shape, config.model, config.score.batch_size * config.score.max_length, checkpointed=False)


def _sft_pass(shape: ModelShape, config: RunConfig) -> dict[str, int]:
    tokens = config.sft.batch_size * config.sft.max_length
    return _pass_bytes(shape, config.model, tokens, checkpointed=config.sft.gradient_checkpointing)


def _rl_pass(shape: ModelShape, config: RunConfig) -> dict[str, int]:
    rl = config.rl
    length = rl.max_prompt_length + rl.max_completion_length
    rollouts = rl.batch_size * rl.gradient_accumulation * length * _kv_bytes(shape, config.model)
    found = _pass_bytes(shape, config.model, rl.batch_size * length, checkpointed=rl.gradient_checkpointing)
    return {**found, "kv_cache": rollouts}


def _evaluate_bytes(shape: ModelShape, config: RunConfig) -> int:
    length = config.score.max_length + config.evaluate.max_new_tokens
    return config.evaluate.batch_size * length * _kv_bytes(shape, config.model)


def _kv_bytes(shape: ModelShape, model: ModelConfig) -> int:
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _BYTES[model.dtype]


def _pass_bytes(shape: ModelShape, model: ModelConfig, tokens: int, *, checkpointed: bool) -> dict[str, int]:
    """Activations kept for backward, with one dequantised weight, and logits with their gradient in float32."""
    layer = _KEPT_BY_HIDDEN * shape.hidden + _KEPT_BY_INTERMEDIATE * shape.intermediate
    if checkpointed:
        layer = _KEPT_CHECKPOINTED_BY_HIDDEN * shape.hidden
    wider = 2 if model.dtype == "float32" and model.autocast == "none" else 1
    dequantised = 0 if model.quantization == "none" else shape.hidden * shape.intermediate * _BYTES[model.dtype]
    return {"activations": tokens * shape.layers * layer * wider + dequantised, "logits": tokens * shape.vocab * 4 * 2}


@dataclass(frozen=True)
class Card:
    """A GPU that one can rent or buy."""

    name: str
    vram_bytes: int
    """As NVIDIA's product page of the card names it, in units of 2^30 bytes (10^9 for the H200)."""


CARDS = (
    Card("T4", 16 * 2**30),
    Card("L4, A10, RTX 4090", 24 * 2**30),
    Card("RTX 5090", 32 * 2**30),
    Card("A100 40 GB", 40 * 2**30),
    Card("L40S", 48 * 2**30),
    Card("A100 80 GB, H100", 80 * 2**30),
    Card("H200", 141 * 10**9),
)
_USABLE = 0.92
"""What fragmentation and the driver leave of a card."""


def cards_said(memory: StageMemory) -> str:
    """The smallest card that holds a stage; where none does, what would."""
    fits = next((card for card in CARDS if memory.total_bytes <= _USABLE * card.vram_bytes), None)
    if fits is not None:
        return f"fits one {fits.name}"
    largest = CARDS[-1]
    if memory.total_bytes - memory.weights >= _USABLE * largest.vram_bytes:
        return "fits no card: lower batch_size or max_length, or switch gradient_checkpointing on"
    return "fits no card, and weights are not sharded over several: set model.quantization, or take a smaller base"
