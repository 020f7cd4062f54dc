"""How often teachers will be asked, in words, before any is."""

from __future__ import annotations

from lorapar.config import DataConfig, RunConfig
from lorapar.data import load_examples
from lorapar.data.source import Kind, kind_of
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


def _rows_voted_on(data: DataConfig, seed: int) -> int | None:
    """None where the rows are not to be read here: the client image has no pyarrow for Parquet."""
    if kind_of(data) is Kind.HUB:
        return None
    try:
        return sum(is_voted_on(example) for example in load_examples(data, seed))
    except ModuleNotFoundError:
        return None
