"""Combine several sources: remove repeats, filter rows by length, and draw shares by weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lorapar.config import DataConfig
from lorapar.config.data import LengthConfig, SourceConfig
from lorapar.data.examples import same_text
from lorapar.records import Example, Omission

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class SourceCounts:
    """Counts of the usable rows of one of several sources."""

    source: str
    rows: int
    repeated: int
    """Rows that an earlier source also asks."""
    by_length: int
    """Rows that are too short or too long."""
    kept: int
    """Drawn rows, training and held-out together."""

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return asdict(self)


def without_repeats(sources: Sequence[Sequence[Example]]) -> list[list[Example]]:
    """The rows of each source that no earlier source asks; an id that an earlier source uses gets a number appended."""
    asked: set[str] = set()
    names: set[str] = set()
    found = []
    for number, examples in enumerate(sources, 1):
        own = [example for example in examples if same_text(example.asked) not in asked]
        asked.update(same_text(example.asked) for example in examples)
        found.append([_with_other_id(one, number) if one.id in names else one for one in own])
        names.update(example.id for example in found[-1])
    return found


def _with_other_id(example: Example, number: int) -> Example:
    return example.model_copy(update={"id": f"{example.id}@{number}"})


def repeats(sources: Sequence[Sequence[Example]], kept: Sequence[Sequence[Example]]) -> Omission:
    """The rows that `without_repeats` left out."""
    before, after = (sum(map(len, rows)) for rows in (sources, kept))
    return Omission(
        count=before - after,
        total=before,
        what="rows left out",
        why="an earlier one of data.sources asks the same, so that each question is on one side of the split only",
        remedy="put the source whose answers to keep first",
    )


def token_counter(length: LengthConfig, tokenizer: PreTrainedTokenizerBase) -> CountTokens | None:
    """Counts a text's tokens; None where no limit is in tokens."""
    if not length.in_tokens:
        return None
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def of_length(
    examples: Sequence[Example], length: LengthConfig, count_tokens: CountTokens | None, what: str = "rows left out"
) -> tuple[list[Example], Omission]:
    """The rows within the limits of length, and the others as an omission."""
    outside: dict[str, Callable[[Example], bool]] = {
        "min_characters": lambda one: _characters(one) < (length.min_characters or 0),
        "max_characters": lambda one: _characters(one) > (length.max_characters or math.inf),
    }
    if count_tokens is not None and length.in_tokens:
        tokens = {one.id: count_tokens(one.asked) + count_tokens(one.answer) for one in examples}
        outside["min_tokens"] = lambda one: tokens[one.id] < (length.min_tokens or 0)
        outside["max_tokens"] = lambda one: tokens[one.id] > (length.max_tokens or math.inf)
    counts: dict[str, int] = {}
    kept = []
    for example in examples:
        name = next((name for name, is_outside in outside.items() if is_outside(example)), None)
        if name is None:
            kept.append(example)
        else:
            counts[name] = counts.get(name, 0) + 1
    limits = ", ".join(f"{count:,} by {name} {getattr(length, name):,}" for name, count in counts.items())
    return kept, Omission(
        count=len(examples) - len(kept),
        total=len(examples),
        what=what,
        why=f"of their length: {limits}",
        remedy="change data.length",
    )


def _characters(example: Example) -> int:
    return len(example.asked) + len(example.answer)


def shares(counts: Sequence[SourceCounts]) -> list[str]:
    """A line about the rows used of each source, and out of how many where they are drawn."""
    total = sum(one.kept for one in counts)
    found = []
    for one in counts:
        had = one.rows - one.repeated - one.by_length
        some = f", drawn from {had:,} by weight and limit" if one.kept < had else ""
        found.append(f"{one.kept:,} of {total:,} rows are of {one.source}{some}")
    return found


def not_drawn(counts: Sequence[SourceCounts], config: DataConfig) -> list[Omission]:
    """Rows that only the weights leave out: of the other sources, once the rows of one have run out."""
    left = [one.rows - one.repeated - one.by_length for one in counts]
    weights = [one.weight or 0.0 for one in config.sources]
    if not any(weights):
        return []
    scarce = min(range(len(left)), key=lambda place: left[place] / weights[place])
    total = left[scarce] * sum(weights) / weights[scarce]
    if config.limit is not None and config.limit < total:
        return []  # a person wants no more rows than that
    names = [_part_name(one) for one in config.sources]
    return [
        Omission(
            count=had - one.kept,
            total=had,
            what=f"rows of {name} are not drawn",
            why=f"weights are shares of the mix, and the {left[scarce]:,} rows of {names[scarce]} run out first",
            remedy=f"lower the weight of {names[scarce]} in data.sources, or leave the weights out to take all rows",
        )
        for one, had, name in zip(counts, left, names, strict=True)
        if one.kept < had
    ]


def _part_name(source: SourceConfig) -> str:
    """What tells a source from another one of the same address."""
    return " ".join(filter(None, (source.source, source.subset, source.split if source.split != "train" else None)))


def drawn(sources: Sequence[Sequence[Example]], config: DataConfig, seed: int) -> list[list[Example]]:
    """As many rows of each source as weights and limit allow, drawn by a digest of seed and question.

    With weights, the largest number in their proportion without repeating a row; without, all rows, or `limit` of them.
    """
    weights = [one.weight or 0.0 for one in config.sources]
    sizes = [len(rows) for rows in sources]
    total = float(sum(sizes))
    if any(weights):
        total = min(size * sum(weights) / weight for size, weight in zip(sizes, weights, strict=True))
        wanted = [weight / sum(weights) for weight in weights]
    else:
        wanted = [size / total if total else 0.0 for size in sizes]
    total = min(total, config.limit or total)
    counts = [min(size, max(round(share * total), 1)) for size, share in zip(sizes, wanted, strict=True)]
    if config.limit is not None and config.limit <= total:
        counts = _largest_remainders([share * total for share in wanted], config.limit, sizes)
    return [_some(rows, count, seed) for rows, count in zip(sources, counts, strict=True)]


def _largest_remainders(exact: Sequence[float], total: int, sizes: Sequence[int]) -> list[int]:
    """Whole numbers near the exact ones with their total, none above its size, and at least one each if that fits."""
    one_each = total >= len(exact)
    counts = [min(size, max(int(share), int(one_each))) for share, size in zip(exact, sizes, strict=True)]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        left = [
            place
            for place, (count, size) in enumerate(zip(counts, sizes, strict=True))
            if (count < size if step > 0 else count > int(one_each))
        ]
        if not left:
            break
        counts[max(left, key=lambda place: step * (exact[place] - counts[place]))] += step
    return counts


def _some(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` rows in their order; the choice does not depend on that order."""
    ranked = sorted(rows, key=lambda one: hashlib.sha256(f"{seed}:draw:{same_text(one.asked)}".encode()).digest())
    chosen = {one.id for one in ranked[:count]}
    return [one for one in rows if one.id in chosen]
