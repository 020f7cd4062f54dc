"""Training rows that the run evaluates too: in its held-out rows, or in its benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorapar.config import BenchmarkConfig, DataConfig
from lorapar.data.overlap import Overlap, overlaps, question_text
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import benchmark_questions
from lorapar.records import HELDOUT_ROWS, Example, Omission


@dataclass(frozen=True)
class Contamination:
    """What was found, and what stays."""

    kept: list[Example]
    """Rows of both splits, without those that were found where `data.decontaminate` is on."""
    overlap: list[Overlap]
    """What each training row shares, one entry a row."""
    omissions: list[Omission]
    """The same as it is said; empty where nothing was found."""


def contamination(
    examples: list[Example],
    data: DataConfig,
    benchmarks: Sequence[BenchmarkConfig],
    seed: int,
    say: Callable[[str], None],
) -> Contamination:
    """Compare training rows with held-out rows and with what benchmarks ask.

    Raises BadInputError where no training row would be left, and as `benchmark_questions`.
    """
    evaluated = {HELDOUT_ROWS: [(one.id, question_text(one)) for one in examples if one.split == "heldout"]}
    for benchmark in benchmarks:
        questions = benchmark_questions(benchmark, seed)
        if questions is None:
            say(
                f"data.decontaminate: rows are not compared with {benchmark.task}: lm-eval, which has its rows, is not "
                "installed here"
            )
        else:
            evaluated[benchmark.task] = questions
    training = [one for one in examples if one.split == "train"]
    found = overlaps(training, evaluated)
    ids = {one.example_id for one in found} if data.decontaminate else set()
    if found and len(ids) == len(training):
        raise BadInputError(
            f"data.decontaminate: every training row shares its question with what is evaluated, the first: "
            f"{found[0].line}; use other rows, or set data.decontaminate=false"
        )
    kept = [one for one in examples if one.id not in ids]
    return Contamination(kept, found, [_omission(found, len(training), data)] if found else [])


def _omission(found: list[Overlap], training: int, data: DataConfig) -> Omission:
    by_measure = Counter(one.measure for one in found)
    counts = ", ".join(f"{measure} {count:,}" for measure, count in by_measure.items())
    return Omission(
        count=len(found),
        total=training,
        what="training rows left out" if data.decontaminate else "training rows are trained on all the same",
        why=f"their questions share words with what is evaluated ({counts}), the first: {found[0].line}",
        remedy=f"set data.decontaminate={'false to train on them' if data.decontaminate else 'true'}",
    )
