"""Training and development rows that the run evaluates too: in its held-out rows, or in its benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorapar.config import BenchmarkConfig, DataConfig
from lorapar.data.overlap import Overlap, has_words, overlaps, question_text
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import benchmark_questions
from lorapar.records import DEVELOPMENT_ROWS, HELDOUT_ROWS, Example, Omission


@dataclass(frozen=True)
class Contamination:
    """What was found, and what stays."""

    kept: list[Example]
    """Rows of every split, without those that were found where `data.decontaminate` is on."""
    overlap: list[Overlap]
    """What each training row shares, one entry a row."""
    omissions: list[Omission]
    """The same as it is said; empty where nothing was found."""


def contamination(
    examples: list[Example],
    data: DataConfig,
    benchmarks: Sequence[BenchmarkConfig],
    seed: int,
    log: Callable[[str], None],
) -> Contamination:
    """Compare training rows with held-out rows and with what benchmarks ask, and so development rows.

    Training rows are compared with the development rows that are left, too. Raises BadInputError where no training or
    no development row would be left, and as `benchmark_questions`.
    """
    evaluated: dict[str, Sequence[tuple[str, str]]] = {
        HELDOUT_ROWS: [(one.id, question_text(one)) for one in examples if one.split == "heldout"]
    }
    for benchmark in benchmarks:
        questions = benchmark_questions(benchmark, seed)
        if questions is None:
            log(
                f"data.decontaminate: rows are not compared with {benchmark.task}: lm-eval, which has its rows, is not "
                "installed here"
            )
            continue
        evaluated[benchmark.task] = questions
        if questions and not any(has_words(question) for _, question in questions):
            log(f"data.decontaminate: only equal questions of {benchmark.task} are found: they hold no words")
    judged = [one for one in examples if one.split == "development"]
    asked = _kept(judged, overlaps(judged, evaluated), data, "development")
    if asked.kept:
        evaluated[DEVELOPMENT_ROWS] = [(one.id, question_text(one)) for one in asked.kept]
    training = [one for one in examples if one.split == "train"]
    trained = _kept(training, overlaps(training, evaluated), data, "training")
    ids = {one.id for one in (*judged, *training)} - {one.id for one in (*asked.kept, *trained.kept)}
    kept = [one for one in examples if one.id not in ids]
    return Contamination(kept, trained.overlap, [*trained.omissions, *asked.omissions])


def _kept(rows: Sequence[Example], found: list[Overlap], data: DataConfig, kind: str) -> Contamination:
    """The rows of one split that stay, and what is said of those that share their question."""
    ids = {one.example_id for one in found} if data.decontaminate else set()
    if found and len(ids) == len(rows):
        raise BadInputError(
            f"data.decontaminate: every {kind} row shares its question with what is evaluated, the first: "
            f"{found[0].line}; use other rows, or set data.decontaminate=false"
        )
    omissions = [_omission(found, len(rows), data, kind)] if found else []
    return Contamination([one for one in rows if one.id not in ids], found, omissions)


def _omission(found: list[Overlap], rows: int, data: DataConfig, kind: str) -> Omission:
    by_measure = Counter(one.measure for one in found)
    counts = ", ".join(f"{measure} {count:,}" for measure, count in by_measure.items())
    use, used = ("train on", "trained on") if kind == "training" else ("use", "used")
    return Omission(
        count=len(found),
        total=rows,
        what=f"{kind} rows left out" if data.decontaminate else f"{kind} rows are {used} anyway",
        why=f"their questions share words with what is evaluated ({counts}), the first: {found[0].line}",
        remedy=f"set data.decontaminate={f'false to {use} them' if data.decontaminate else 'true'}",
    )
