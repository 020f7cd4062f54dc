"""How often teachers will be asked, in words, before any is."""

from __future__ import annotations

from math import ceil

from lorapar.config import DataConfig, RunConfig
from lorapar.data import load_examples
from lorapar.data.source import is_far
from lorapar.voting import quorum_size
from lorapar.voting.ballots import is_voted_on

MODELS = 4
"""Models that an evaluation may ask: base, after SFT, after RL, incumbent."""


def teacher_calls(config: RunConfig) -> str:
    """Rows that lie here are read for it, and so checked; a hub's are not fetched."""
    teachers = len(config.teachers)
    first = quorum_size(teachers, config.voting.quorum)
    who = f"{first} read every row" + (f", {teachers - first} more only undecided rows" if teachers > first else "")
    rows = _rows_voted_on(config.data, config.seed)
    if rows is None:
        return who
    most = f" to {teachers * rows:,}" if teachers > first else ""
    return f"{first * rows:,}{most} calls: of {teachers}, {who}"


def judge_calls(config: RunConfig) -> list[str]:
    """A line a judge of `rl.rewards` and `evaluate.judges`: texts it is asked about at most; equal ones once."""
    return [*_reward_calls(config), *_measure_calls(config)]


def _measure_calls(config: RunConfig) -> list[str]:
    judges = [(name, one) for name, one in config.evaluate.judges.items() if one.judge is not None]
    rows = _heldout_rows(config.data, config.seed) if judges else None
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
    if not judges:
        return []
    rl = config.rl
    each = rl.batch_size * rl.gradient_accumulation
    rows = _rows_voted_on(config.data, config.seed) if rl.max_steps is None else None
    if rl.max_steps is not None:
        most = f"at most {ceil(rl.max_steps / rl.num_iterations) * each:,} calls"
    elif rows is not None:
        most = f"at most {ceil(rl.epochs * rows * rl.num_generations):,} calls, were all rows System 2"
    else:
        most = f"{rl.num_generations} calls a row of System 2 and epoch"
    return [f"{name}: {most}, one a completion; equal completions are asked about once" for name in judges]


def _heldout_rows(data: DataConfig, seed: int) -> int | None:
    if is_far(data):
        return None
    try:
        return sum(example.split == "heldout" for example in load_examples(data, seed))
    except ModuleNotFoundError:
        return None


def _rows_voted_on(data: DataConfig, seed: int) -> int | None:
    """None where the rows are not to be read here: the client image has no pyarrow for Parquet."""
    if is_far(data):
        return None
    try:
        return sum(is_voted_on(example) for example in load_examples(data, seed))
    except ModuleNotFoundError:
        return None
