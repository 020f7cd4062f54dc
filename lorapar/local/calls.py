"""How many requests teachers, judges and the run's own adapters will get, as lines of `plan`."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from lorapar.config import EngineOptions, RlConfig, RunConfig
from lorapar.data import load_examples
from lorapar.data.source import is_far
from lorapar.records import Example
from lorapar.registry import max_lora_rank
from lorapar.voting import quorum_size
from lorapar.voting.ballots import is_voted_on

MODELS = 4
"""Models that an evaluation may ask: base, after SFT, after RL, incumbent."""


def teacher_calls(config: RunConfig) -> str:
    """Rows that are here are read for it, and so checked; a hub's are not fetched."""
    teachers = len(config.teachers)
    first = quorum_size(teachers, config.voting.quorum)
    who = f"{first} read every row" + (f", {teachers - first} more only undecided rows" if teachers > first else "")
    rows = _rows_voted_on(config)
    who += _LABELS.get(config.voting.labels, "")
    if rows is None:
        return who
    most = f" to {teachers * rows:,}" if teachers > first else ""
    return f"{first * rows:,}{most} calls: of {teachers}, {who}"


_LABELS = {
    "data": "; training rows get the systems that the data name (voting.labels), and are voted on only without one",
    "random": "; training rows get their systems by chance (voting.labels), and are not voted on",
}


def judge_calls(config: RunConfig) -> list[str]:
    """A line a judge of `rl.rewards` and `evaluate.judges`: texts it is asked about at most; equal ones once."""
    return [*_reward_calls(config), *_measure_calls(config)]


def filter_calls(config: RunConfig) -> list[str]:
    """How many completions `rl.filter` will ask for at most, a line each phase of RL that it is on for."""
    phases = [(phase, section) for phase, section in config.rl_phases() if section.filter is not None]
    rows = _count(config, lambda one: one.split == "train" and _is_rewarded(one, config)) if phases else None
    several = len(config.rl_phases()) > 1
    return [_filtered(f"rl.filter ({phase})" if several else "rl.filter", section, rows) for phase, section in phases]


def _filtered(name: str, section: RlConfig, rows: int | None) -> str:
    samples = section.filter.samples if section.filter is not None else 0
    each = f"{samples} completions of every row that RL could learn from"
    kept = "; what was asked before is remembered"
    if rows is None:
        return f"{name}: {each}{kept}"
    unsure = "" if section.rows == "all" else ", were all rows its own (the vote decides)"
    return f"{name}: {each}: at most {samples * rows:,} of {rows:,} rows{unsure}{kept}"


def rollouts_text(config: RunConfig) -> list[str]:
    """What samples RL's completions, where it is not the trainer itself: its address or its share of a GPU."""
    rl = config.rl
    if "rl" not in config.methods or rl.rollouts == "transformers":
        return []
    rank = max_lora_rank(config.held_rank)
    if rl.rollouts == "server" and rl.server is not None:
        way = "over HTTP" if rl.server.folder is None else f"by the folder {rl.server.folder}"
        return [
            f"rl asks {rl.server.endpoint}, a vLLM of its own with the base (its GPU is not counted here, "
            f"--max-lora-rank {rank}); adapters go to it {way}"
        ]
    engine = rl.vllm or EngineOptions()
    how = "all the time" if engine.sleep is False else "while it samples, and gives it back while the adapter learns"
    return [
        f"rl: vLLM takes {engine.gpu_memory_utilization:.0%} of each GPU's memory {how}; of it the memory of rl counts "
        "what the engine needs at least, and the card that holds rl all"
    ]


def pick_calls(config: RunConfig) -> list[str]:
    """How many answers `publish.pick: best` asks for, and how far its rows reach; nothing where the last is taken."""
    publish = config.publish
    if publish.pick == "last":
        return [_UNREAD] if config.data.development else []
    from lorapar.evaluation.pick import rows_needed

    rows = _count(config, lambda one: one.split == "development" and one.reference is not None)
    count, needed = publish.candidates, rows_needed(publish.candidates - 1, publish.confidence)
    if rows is None:
        return [f"publish.pick best: {count} adapters are asked every development row"]
    asked = f"publish.pick best: {count * rows:,} answers: {count} adapters, {rows:,} development rows each"
    if rows < needed:
        return [f"WARNING: {asked}; no earlier adapter can be better by so few, {needed} rows are the least"]
    points = 100 * needed / rows
    found = f"an earlier adapter is better from {points:.3g} points on at the least ({needed} rows won, none lost)"
    return [f"{'WARNING: ' if points > _FEW_POINTS else ''}{asked}; {found}" + _MORE * (points > _FEW_POINTS)]


_FEW_POINTS = 10
_MORE = "; raise data.development to see smaller gains"
_UNREAD = "data.development: these rows are set apart, and nothing reads them while publish.pick is last"


def _is_rewarded(example: Example, config: RunConfig) -> bool:
    without = config.rewarded_without_answer
    return example.reference is not None or without == "all" or (without == "tests" and bool(example.tests))


def _measure_calls(config: RunConfig) -> list[str]:
    judges = [(name, one) for name, one in config.evaluate.judges.items() if one.judge is not None]
    rows = _heldout_rows(config) if judges else None
    lines = []
    for name, measure in judges:
        if config.evaluate.limit is not None:
            each = config.evaluate.limit * len(measure.systems)
            rows = each if rows is None else min(rows, each)
        most = "one call" if rows is None else f"at most {rows * MODELS:,} calls, one"
        lines.append(
            f"{name} (evaluate): {most} for each held-out row and model ({MODELS - 1}, and an incumbent); what it said "
            "is remembered"
        )
    return lines


def _reward_calls(config: RunConfig) -> list[str]:
    judges = [name for name, one in config.rl.reward_configs().items() if one.judge is not None]
    phases = config.rl_phases()
    if not judges or not phases:
        return []
    most = _most_rewarded(config, phases[0][1])
    if len(phases) > 1:
        most = "; ".join(f"{phase}: {_most_rewarded(config, rl)}" for phase, rl in phases)
    return [f"{name}: {most}, one a completion; equal completions are asked about once" for name in judges]


def _most_rewarded(config: RunConfig, rl: RlConfig) -> str:
    """How many completions of one phase a judge is asked about at most."""
    if rl.max_steps is not None:
        each = rl.batch_size * rl.gradient_accumulation
        return f"at most {ceil(rl.max_steps / rl.num_iterations) * each:,} calls"
    rows = _rows_voted_on(config)
    if rows is None:
        return f"{rl.num_generations} calls a row of its system and epoch"
    return f"at most {ceil(rl.epochs * rows * rl.num_generations):,} calls, were all rows its own"


def _heldout_rows(config: RunConfig) -> int | None:
    return _count(config, lambda one: one.split == "heldout")


def _rows_voted_on(config: RunConfig) -> int | None:
    return _count(config, lambda one: is_voted_on(one, config.voting.labels))


def _count(config: RunConfig, counts: Callable[[Example], bool]) -> int | None:
    """None where the rows are not to be read here: the client image has no pyarrow for Parquet."""
    if is_far(config.data):
        return None
    try:
        return sum(map(counts, load_examples(config.data, config.seed)))
    except ModuleNotFoundError:
        return None
