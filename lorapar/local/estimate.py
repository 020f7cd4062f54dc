"""About how much memory each stage will need, from sizes alone: for deciding on a machine, not for the last megabyte.

Counted: weights, adapter with its copies, gradients, the masked optimiser's moments, activations and logits of one
forward pass, the KV cache of rollouts or the engine of vLLM that samples them, and what CUDA's context or the libraries
hold. On a CPU also what only the resident memory shows: holes in the heap. Fragmentation on a GPU is not counted.
tests/benchmarks/bench_memory.py holds the sums against peaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, Literal

from lorapar.basemodel.quantized import held_as
from lorapar.basemodel.shape import ModelShape, config_values, model_shape
from lorapar.config import EngineOptions, ModelConfig, RlConfig, RunConfig, SftConfig
from lorapar.config.rollouts import ENGINES
from lorapar.training.shares import chosen_share, visible_gpus

Device = Literal["cpu", "cuda"]
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes a decoder layer keeps of each token for backward, by hidden and intermediate size: measured on Llama-2-7B and
# Qwen2.5-7B layers in bfloat16 with float32 LoRA on QKVGUD (335 and 412 kB). With checkpointing only its input stays.
_KEPT_BY_HIDDEN, _KEPT_BY_INTERMEDIATE = 48, 13
_KEPT_CHECKPOINTED_BY_HIDDEN = 4
# A model's active share at theta 0.9 as the paper and our own runs found it (36 to 43%); all of it at theta 1.
_ACTIVE_SHARE = 0.45
# In float32 without autocast, against the same in bfloat16: the LoRA branches are in float32 in both.
_WIDER = 1.4
_CONTEXT_BYTES = {"cuda": 500_000_000, "cpu": 650_000_000}
"""CUDA's context; Python with torch, transformers, TRL and PEFT."""
_QUANTIZED_LIBRARY_BYTES = 60_000_000
_HOLES = 0.5
"""Of activations, what glibc's heap takes beyond the tensors themselves; logits come in few large blocks."""
# TRL's chunked log-probabilities (trl/kernels/chunked_logprob.py, 1.16): a tile of so many tokens and words; without
# Triton a tile is folded by torch: a trace of the allocator counted 7 float32 copies of it, and peaks fit 6.
_TILE_TOKENS, _TILE_WORDS, _TILE_COPIES = 4096, 32768, 6
_GATHERED_LAYERS = {"cuda": 3, "cpu": 2}
"""Of a sharded base what FSDP2 holds whole at once: the layer at work with the buffer it came in, on GPUs the next."""
_SCORE_COPIES = 4
"""Scoring's logits, their float32 copy, the softmax and the gradients, in float32s."""
_SAMPLING_COPIES = 4
# Constants of nf4 a weight: one float32 a block of 64, or one byte and a float32 for 256 of these.
_BLOCK_BYTES = 4 / 64
_DOUBLE_BLOCK_BYTES = 1 / 64 + 4 / (64 * 256)


_NO_TERMS = ("shards", "engine_share", "engine_stays")


@dataclass(frozen=True)
class StageMemory:
    """Estimated peak memory of a stage by its terms, in bytes; what a stage does not hold is 0."""

    weights: int
    """Of the base, as it is held: in its number format, or in 8 or 4 bits; of a sharded one a process's part."""
    adapter: int = 0
    gradients: int = 0
    moments: int = 0
    """The optimiser's, or the sums that scoring keeps."""
    activations: int = 0
    logits: int = 0
    kv_cache: int = 0
    heap: int = 0
    """On a CPU, what the C library's heap holds beyond the tensors of a pass."""
    context: int = _CONTEXT_BYTES["cuda"]
    """CUDA's context, or what the libraries hold."""
    gathered: int = 0
    """Of a sharded base, what each process holds whole for a while: the layers at work, and the output head."""
    engine: int = 0
    """Of an engine of vLLM in the same process, the least: the base once more, and the cache of one completion."""
    shards: int = 1
    """Processes that share the weights; the terms are those of one."""
    engine_share: float = 0.0
    """Share of a card's whole memory that the engine takes, which is more where the card is larger."""
    engine_stays: bool = False
    """Whether the engine keeps its memory while the adapter learns."""

    @property
    def total_bytes(self) -> int:
        """All terms, of which rollouts' cache and the learning pass are not there at once."""
        return self._with_engine(self.engine)

    def needed_on(self, card_bytes: int) -> int:
        """The same on a card of so much memory, of which vLLM takes its share; more than the card has where that share
        is less than the engine needs.
        """
        share = int(self.engine_share * card_bytes)
        return card_bytes + self.engine if share < self.engine else self._with_engine(share)

    def _with_engine(self, engine: int) -> int:
        learning = self.activations + self.logits + self.heap + (engine if self.engine_stays else 0)
        held = self.weights + self.gathered + self.adapter + self.gradients + self.moments
        return held + max(learning, self.kv_cache + engine) + self.context

    @property
    def description(self) -> str:
        """The terms of 10 MB and more, largest first, in GB."""
        names = (one.name for one in fields(self) if one.name not in _NO_TERMS)
        terms = sorted(((getattr(self, name), name) for name in names), reverse=True)
        description = ", ".join(
            f"{name.replace('_', ' ')} {size / 1e9:.2f}" for size, name in terms if size >= 10_000_000
        )
        return description if self.shards == 1 else f"in each of {self.shards} processes {description}"


def device_here() -> Device:
    """What the stages would run on here."""
    return "cuda" if visible_gpus() else "cpu"


def stage_memory(config: RunConfig, device: Device | None = None, gpus: int | None = None) -> dict[str, StageMemory]:
    """Estimated peak memory of each stage that holds a model, of one process; empty where its sizes are unknown.

    `device`: None: what is here. `gpus`: of the stage, which decide how many processes train; None: those that are
    visible here.
    """
    shape = model_shape(config.model)
    if shape is None:
        return {}
    config = config.model_copy(update={"model": held_as(config.model, config_values(config.model))})
    device, gpus = device or device_here(), visible_gpus() if gpus is None else gpus
    weights, adapter = base_bytes(shape, config.model), _adapter_bytes(shape, config)
    share = 1.0 if config.partition.theta == 1 else _ACTIVE_SHARE
    elements = _elements(shape, config, _trained_rank(config))
    # On the CPU, too: the adapter as it was, and the last good one.
    held: dict[str, Any] = {
        **_base_terms(shape, config.model, device),
        "adapter": (3 if device == "cpu" else 1) * adapter,
    }
    trained = {**held, "gradients": adapter, "moments": int(8 * share * elements)}
    scored = {**held, "gradients": 4 * elements * config.score.batch_size, "moments": 16 * elements}
    rl = {**trained, "adapter": trained["adapter"] + adapter}  # TRL copies it
    context: dict[str, Any] = {"context": held["context"]}
    return {
        "vote": StageMemory(max(_vote_bytes(config, one) for one in range(len(config.teachers))), **context),
        "init": StageMemory(**held),
        "score": _with_heap(StageMemory(**scored, **_score_pass(shape, config)), device),
        "sft": _largest(_trainings(shape, config, StageMemory(**trained), device, config.sft_sections(), gpus)),
        "rl": _largest(_trainings(shape, config, StageMemory(**rl), device, config.rl_sections(), gpus)),
        "publish": StageMemory(2 * weights, 2 * adapter, **context),
        "evaluate": StageMemory(**{**held, "adapter": 2 * adapter}, kv_cache=_evaluate_bytes(shape, config)),
    }


def _largest(phases: Iterable[StageMemory]) -> StageMemory:
    """The phase that takes most."""
    return max(phases, key=lambda one: one.total_bytes)


def _trainings(
    shape: ModelShape,
    config: RunConfig,
    held: StageMemory,
    device: Device,
    sections: Iterable[SftConfig | RlConfig],
    gpus: int,
) -> Iterator[StageMemory]:
    """What one process of each phase holds: its part of a sharded base, of the rest all, and its rows of a step."""
    for section in sections:
        share, _ = chosen_share(section, gpus, config.processes)
        part = {"batch_size": share.batch_size, "gradient_accumulation": share.gradient_accumulation}
        memory = replace(held, **_pass(shape, config.model, section.model_copy(update=part), device))
        if config.sharding == "fsdp2" and share.processes > 1:  # freed memory goes back then: basemodel/memory.py
            weights, gathered = held.weights // share.processes, gathered_bytes(shape, config.model, device)
            yield replace(memory, weights=weights, gathered=gathered, shards=share.processes)
        else:
            yield _with_heap(replace(memory, **_engine(shape, config.model, section, device)), device)


def _engine(shape: ModelShape, model: ModelConfig, section: SftConfig | RlConfig, device: Device) -> dict[str, Any]:
    """What an engine of vLLM beside the trainer takes of a GPU; nothing where none is."""
    if not isinstance(section, RlConfig) or section.rollouts != "vllm":
        return {}
    options = section.vllm or EngineOptions()
    length = options.max_model_len or section.max_prompt_length + section.max_completion_length
    return {
        "engine": (base_bytes(shape, model.full) + length * _kv_bytes(shape, model)) // options.tensor_parallel_size,
        "engine_share": options.gpu_memory_utilization if device == "cuda" else 0.0,
        "engine_stays": device == "cpu" or options.sleep is False,
    }


def gathered_bytes(shape: ModelShape, model: ModelConfig, device: Device) -> int:
    """Of a sharded base, what a process holds whole at once: some layers, and the head from forward to backward."""
    head = shape.hidden * shape.vocab
    layer = (shape.parameters - _kept_whole(shape)) // shape.layers
    return (head + _GATHERED_LAYERS[device] * layer) * _BYTES[model.dtype]


def _base_terms(shape: ModelShape, model: ModelConfig, device: Device) -> dict[str, int]:
    """What the base and the libraries hold."""
    quantized = model.quantization != "none"
    context = _CONTEXT_BYTES[device] + (_QUANTIZED_LIBRARY_BYTES if quantized and device == "cpu" else 0)
    return {"weights": base_bytes(shape, model), "context": context}


def _with_heap(memory: StageMemory, device: Device) -> StageMemory:
    if device == "cuda":
        return memory
    return replace(memory, heap=int(_HOLES * memory.activations))


def base_bytes(shape: ModelShape, model: ModelConfig) -> int:
    """The base's weights in memory. Quantised ones take their bits and the constants of their blocks."""
    if model.quantization == "none":
        return shape.parameters * _BYTES[model.dtype]
    kept = _kept_whole(shape)
    if model.quantization == "int8":
        a_weight = 1.0
    else:
        a_weight = 0.5 + (_BLOCK_BYTES if model.double_quantization is False else _DOUBLE_BLOCK_BYTES)
    return int((shape.parameters - kept) * a_weight) + kept * _BYTES[model.dtype]


def _kept_whole(shape: ModelShape) -> int:
    """Weights that no quantisation touches: the embedding and the head."""
    return shape.hidden * shape.vocab * (1 if shape.tied else 2)


def _adapter_bytes(shape: ModelShape, config: RunConfig) -> int:
    return 4 * _elements(shape, config, config.held_rank)


def _elements(shape: ModelShape, config: RunConfig, rank: int) -> int:
    """Elements of an adapter, of a LoRA of this rank; the few of other kinds by their own sizes."""
    kind, tokens = config.adapter.kind, config.adapter.virtual_tokens
    if kind == "prompt":
        return tokens * shape.hidden
    keys = shape.projections["K"][1]
    if kind == "prefix":
        return tokens * shape.layers * 2 * keys
    return (
        shape.layers * (2 * keys + shape.intermediate)
        if kind == "ia3"
        else shape.lora_elements(config.adapter.layout, rank)
    )


def trained_elements(config: RunConfig) -> int | None:
    """Elements of the adapter that importance is known of; None where the model's sizes are unknown."""
    shape = model_shape(config.model)
    return None if shape is None else _elements(shape, config, _trained_rank(config))


def _trained_rank(config: RunConfig) -> int:
    """At most so much of the rank is trained."""
    return config.held_rank if config.model.continue_ else config.adapter.rank


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


def _score_pass(shape: ModelShape, config: RunConfig) -> dict[str, Any]:
    tokens = config.score.batch_size * config.score.max_length
    found = _activations(shape, config.model, tokens, checkpointed=False)
    return {"activations": found, "logits": tokens * shape.vocab * 4 * _SCORE_COPIES}


def _pass(shape: ModelShape, model: ModelConfig, section: SftConfig | RlConfig, device: Device) -> dict[str, Any]:
    if isinstance(section, RlConfig):
        return _one_rl(shape, model, section, device)
    return _one_sft(shape, model, section, device)


def _one_sft(shape: ModelShape, model: ModelConfig, sft: SftConfig, device: Device) -> dict[str, int]:
    tokens = sft.batch_size * sft.max_length
    found = _activations(shape, model, tokens, checkpointed=sft.gradient_checkpointing)
    return {"activations": found, "logits": _logits(shape, model, tokens, device)}


def _one_rl(shape: ModelShape, model: ModelConfig, rl: RlConfig, device: Device) -> dict[str, int]:
    length, completions = rl.max_prompt_length + rl.max_completion_length, rl.batch_size * rl.gradient_accumulation
    sampling = completions * shape.vocab * 4 * _SAMPLING_COPIES
    # Where the model allows it, completions of one prompt learn with one copy of it.
    prompts = -(-rl.batch_size // rl.num_generations) if rl.share_prompts else rl.batch_size
    tokens = prompts * rl.max_prompt_length + rl.batch_size * rl.max_completion_length
    return {
        "activations": _activations(shape, model, tokens, checkpointed=rl.gradient_checkpointing),
        "logits": _logits(shape, model, rl.batch_size * rl.max_completion_length, device),
        # An engine of vLLM has a cache of its own.
        "kv_cache": 0 if rl.rollouts in ENGINES else completions * length * _kv_bytes(shape, model) + sampling,
    }


def _evaluate_bytes(shape: ModelShape, config: RunConfig) -> int:
    length = config.score.max_length + config.evaluate.max_new_tokens
    return config.evaluate.batch_size * length * _kv_bytes(shape, config.model)


def _kv_bytes(shape: ModelShape, model: ModelConfig) -> int:
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _BYTES[model.dtype]


def _activations(shape: ModelShape, model: ModelConfig, tokens: int, *, checkpointed: bool) -> int:
    """Activations kept for backward, with one dequantised weight; with checkpointing one layer's and all inputs."""
    layer = _KEPT_BY_HIDDEN * shape.hidden + _KEPT_BY_INTERMEDIATE * shape.intermediate
    layers = shape.layers * layer
    if checkpointed:
        layers = shape.layers * _KEPT_CHECKPOINTED_BY_HIDDEN * shape.hidden + layer
    wider = _WIDER if model.dtype == "float32" and model.autocast == "none" else 1.0
    dequantised = 0 if model.quantization == "none" else shape.hidden * shape.intermediate * _BYTES[model.dtype]
    return int(tokens * layers * wider) + dequantised


def _logits(shape: ModelShape, model: ModelConfig, tokens: int, device: Device) -> int:
    """One tile of TRL's log-probabilities of so many labelled tokens, and what is made of it."""
    tokens, words = min(tokens, _TILE_TOKENS), min(shape.vocab, _TILE_WORDS)
    if device == "cuda":  # the kernel works in place; a tile has its full width
        return tokens * _TILE_WORDS * _BYTES[model.dtype]
    return tokens * words * (_BYTES[model.dtype] + 4 * _TILE_COPIES)


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


def cards_text(memory: StageMemory, *, shared: Literal["fsdp2", "layers"] | None = None, gathered: int = 0) -> str:
    """The smallest card that holds a stage, or one of its processes; where none does, what would.

    `shared`: how several cards can hold its weights together; `gathered`: what each then holds of them beside its part.
    """
    fits = next((card for card in CARDS if memory.needed_on(card.vram_bytes) <= _USABLE * card.vram_bytes), None)
    if fits is not None:
        return f"fits one {fits.name}{' each' if memory.shards > 1 else ''}"
    largest = CARDS[-1]
    if memory.engine:
        bare = cards_text(replace(memory, engine=0, engine_share=0.0), shared=shared, gathered=gathered)
        return f"with vLLM's engine fits no card at rl.vllm.gpu_memory_utilization; with rl.rollouts server {bare}"
    beside = memory.total_bytes - memory.weights + (gathered if memory.shards == 1 else 0)
    if beside >= _USABLE * largest.vram_bytes:
        return "fits no card: lower batch_size or max_length, or switch gradient_checkpointing on"
    if shared is not None:
        count = ceil(memory.shards * memory.weights / (_USABLE * largest.vram_bytes - beside))
        how = "with sharding fsdp2" if shared == "fsdp2" else "in one process, layer by layer"
        return f"fits no card alone: {count} {largest.name} hold it {how}"
    return "fits no card, and its weights are not sharded: set model.quantization, or take a smaller base"
