"""How often teachers will be asked, in words, before any is."""

from __future__ import annotations

from math import ceil

from lorapar.config import DataConfig, RunConfig
from lorapar.data import load_examples
from lorapar.data.source import has_hub
from lorapar.voting import quorum_size
from lorapar.voting.ballots import is_voted_on


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
    """A line a judge of `rl.rewards`: completions it is asked about at most; equal ones are asked once."""
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


def _rows_voted_on(data: DataConfig, seed: int) -> int | None:
    """None where the rows are not to be read here: the client image has no pyarrow for Parquet."""
    if has_hub(data):
        return None
    try:
        return sum(is_voted_on(example) for example in load_examples(data, seed))
    except ModuleNotFoundError:
        return None
