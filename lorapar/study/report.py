"""The result of a study as files: report.html, report.md, and CSV files with all their values."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar import __version__
from lorapar.config.study import StudyConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.report.formats import NOTHING, count_of, duration, interval, percent, points
from lorapar.report.formats import p_value as p_text
from lorapar.report.page import render_study
from lorapar.store import write_atomically
from lorapar.study.cells import Cell, named_cells, reference_of
from lorapar.study.charts import charts, measure_title, model_title
from lorapar.study.compared import Comparison, comparisons, not_compared
from lorapar.study.correlation import Correlation, correlations
from lorapar.study.folder import StudyFolder
from lorapar.study.kept import result_of
from lorapar.study.results import (
    Figure,
    Result,
    as_row,
    by_cell,
    figures,
    region_means,
    seconds_spent,
)

_SHOWN_REGIONS = {
    "system1_only_share_of_set": "System 1 only, of its set",
    "system2_only_share_of_set": "System 2 only, of its set",
    "shared_fraction": "shared, of all",
    "jaccard": "Jaccard",
    "sft_active_fraction": "SFT trains",
    "rl_active_fraction": "RL trains",
}
TESTS = (
    "Each two cells answered the same rows. The p-value is exact: how likely at least so uneven a split of the rows is "
    "if nothing differed (McNemar's test; a row answered with several seeds counts once, with the sum of its answers). "
    "It is corrected for all comparisons of the study together by Holm's method. It tells these adapters apart and "
    "says nothing of other seeds. “Better” and “worse” ask for a corrected p-value below {level:g}, for a Student's "
    "interval of the difference over seeds, {percent:g}%, without zero, and for the same direction with each seed. "
    "Where the rows are sure and the seeds are not, or are one without an interval, the difference is of “these seeds "
    "only”; everything else is noise, or seeds disagree. Intervals are not corrected for the number of comparisons. "
    "Those of means are Student's over seeds; of a single seed Wilson's over rows."
)


@contextmanager
def reported(
    study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder, log: Callable[[str], None]
) -> Iterator[None]:
    """Write the report however the block ends; where it fails, its error counts, whatever is wrong with the report."""
    try:
        yield
    except BaseException:
        try:
            write_study_report(study, cells, folder)
        except (LoraparError, OSError) as error:
            log(f"the report is not written: {error}")
        raise
    log(f"report: {write_study_report(study, cells, folder, log)}")


@dataclass(frozen=True)
class Rows:
    """A table."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: tuple[int, ...] = ()
    """Columns of numbers."""

    def markdown(self) -> str:
        """As Markdown; escapes bars, which would end a cell."""
        lines = [self.heads, tuple("--:" if place in self.numbers else "---" for place in range(len(self.heads)))]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [*lines, *self.rows]
        )


def write_study_report(
    study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder, log: Callable[[str], None] = lambda _: None
) -> Path:
    """Write report.html, report.md and the CSV files from the cells that have finished; returns the page's path.

    A result that cannot be read is left out and named. Raises BadInputError where none is left and there are tables.
    """
    results, unread, failed = _readable(study, cells, folder)
    for line in unread:
        log(line)
    if not results and _has_tables(folder):
        raise BadInputError(
            f"{folder.root}: no cell has finished with these settings and lorapar {__version__}, so its report and "
            "tables stay as they are; `lorapar study status` says what each cell is of"
        )
    shares, regions, compared = figures(study, results), region_means(study, results), comparisons(study, results)
    _write_csv(folder.root / "figures.csv", [as_row(one) for one in (*shares, *regions)])
    _write_csv(folder.root / "comparisons.csv", [as_row(one) for one in compared])
    alike = correlations(study, dict(by_cell(study, results))) if _looks_at_scores(study, results) else []
    if alike:
        _write_csv(folder.root / "correlations.csv", [vars(one) for one in alike])
    _write_csv(folder.root / "cells.csv", [_cost_line(result) for result in results])
    about = _about(study, cells, results, failed)
    gaps = not_compared(study, results) if study.until != "partition" else []
    sentences = [*(_sentences(study, compared) if compared or not gaps else ()), *gaps, *unread]
    sections = _sections(study, shares, regions, compared, results)
    if alike:
        sections.insert(-1, ("Ranks of the scores", [_OF_RANKS], _correlation_rows(alike)))
    tests = TESTS.format(level=round(1 - study.confidence, 9), percent=100 * study.confidence)
    write_atomically(folder.root / "report.md", _markdown(study, about, sentences, sections, tests))
    page = render_study(
        name=study.name,
        title=study.title,
        about=about,
        sentences=sentences,
        charts=charts(study, shares),
        sections=[{"title": title, "notes": notes, "rows": rows} for title, notes, rows in sections],
        missing=study.missing,
        tests=tests,
    )
    write_atomically(folder.root / "report.html", page)
    return folder.root / "report.html"


def _readable(study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder) -> tuple[list[Result], list[str], int]:
    """The results of the cells that have finished, a line for each that cannot be read, and how many cells failed."""
    results, unread, failed = [], [], 0
    for cell in cells:
        try:
            state = folder.state(cell)
            failed += state is not None and state.status == "failed"
            if folder.is_finished(cell, __version__, study.until):
                results.append(result_of(cell, folder))
        except LoraparError as error:
            unread.append(f"Left out is {cell.label}: {error}.")
    return results, unread, failed


def _has_tables(folder: StudyFolder) -> bool:
    figures = folder.root / "figures.csv"
    return figures.is_file() and figures.stat().st_size > 0


def _about(study: StudyConfig, cells: Sequence[Cell], results: Sequence[Result], failed: int) -> str:
    model = cells[0].config.model.name
    alone = sum(result.cost.seconds for result in results)
    parts = [
        f"{len(results)} of {count_of(len(cells), 'run')} finished: {count_of(len(named_cells(study)), 'cell')} with "
        f"{count_of(len(study.seeds), 'seed')}, model {model}"
    ]
    parts += [f"{failed} failed (`lorapar study status` says why)"] if failed else []
    if results:
        spent = seconds_spent(results)
        parts.append(f"stages took {duration(spent)}; without sharing them it would have been {duration(alone)}")
    return "; ".join(parts) + "."


def _sentences(study: StudyConfig, compared: Sequence[Comparison]) -> list[str]:
    """Sentences about differences that are more than noise, then about the others."""
    if study.until == "partition":
        return ["The partition alone was made; nothing was trained, so nothing is compared."]
    if not compared:
        return ["There are no two finished cells to compare yet."]
    text = [
        f"{one.cell} is {one.verdict} than {one.other} on {_question(study, one)}: "
        f"{points(one.difference)} points ({_over_seeds(one)}; {_corrected(one)} over rows)."
        for one in compared
        if one.verdict in ("better", "worse")
    ]
    text += [
        f"With these seeds only, {one.cell} is {'ahead of' if one.difference > 0 else 'behind'} {one.other} on "
        f"{_question(study, one)}: {points(one.difference)} points ({_over_seeds(one)}; {_corrected(one)} over rows). "
        + ("One seed has no interval, and another" if one.interval is None else "Another seed")
        + " may say the opposite."
        for one in compared
        if one.verdict == "these seeds only"
    ]
    torn = [one for one in compared if one.verdict == "seeds disagree"]
    if torn:
        named = "; ".join(f"{one.cell} on {_question(study, one)}" for one in torn)
        text.append(f"Seeds disagree, whatever the rows say, about {named}.")
    noise = sum(one.verdict in ("noise", "equal") for one in compared)
    if noise == len(compared):
        text.append(f"No difference is more than noise: {count_of(len(compared), 'comparison')} were made.")
    elif noise:
        text.append(f"The other {noise} of {len(compared)} comparisons show no difference beyond noise.")
    if max(one.seeds for one in compared) == 1:
        text.append("One seed was run, so nothing is called better or worse: that takes two at least.")
    return text


def _over_seeds(one: Comparison) -> str:
    between = f", interval {points(one.interval[0])} to {points(one.interval[1])}" if one.interval else ""
    return f"{count_of(one.seeds, 'seed')}{between}"


def _question(study: StudyConfig, one: Comparison) -> str:
    return f"{measure_title(one.measure)} {model_title(study, one.model)}"


def _sections(
    study: StudyConfig,
    shares: Sequence[Figure],
    regions: Sequence[Figure],
    compared: Sequence[Comparison],
    results: Sequence[Result],
) -> list[tuple[str, list[str], Rows]]:
    found: list[tuple[str, list[str], Rows]] = []
    if study.until != "partition":
        found.append(("Right answers", _of_the_paper(study), _share_rows(study, shares)))
        against = [] if study.compare == "pairs" else [f"Each cell against {reference_of(study)}, on the same rows."]
        found.append(("Comparisons", against, _comparison_rows(study, compared)))
    found.append(("Partition", ["Mean over seeds, and its interval."], _region_rows(regions)))
    costs = [
        "As if each cell had shared nothing. Elements are those that SFT and RL trained; tokens are those that SFT "
        "read, prompts and answers of every step, and those sampled in RL. Answers that another cell or seed had asked "
        "for are recalled, and their time is not counted again. "
        "A second is one of the machine it ran on, with whatever ran beside it."
    ]
    found.append(("Cost", costs, _cost_rows(results)))
    return found


def _looks_at_scores(study: StudyConfig, results: Sequence[Result]) -> bool:
    """Cells of other studies mostly share their scores, and their correlation of 1 says nothing."""
    return study.until == "partition" or any(result.again for result in results)


_OF_RANKS = (
    "Spearman's rank correlation of the importance of about 3,000 elements, 1 where all have the same rank and 0 where "
    "ranks say nothing of each other. Another seed draws another start, other rows and, in most data, other splits."
)


def _correlation_rows(alike: Sequence[Correlation]) -> Rows:
    rows = [
        (
            one.cell,
            one.other,
            measure_title(one.system),
            f"{one.mean:.3f}",
            f"{one.least:.3f} to {one.most:.3f}",
            str(one.pairs),
        )
        for one in alike
    ]
    return Rows(("cell", "with", "scores of", "mean", "least to most", "pairs"), rows, (3, 4, 5))


def _of_the_paper(study: StudyConfig) -> list[str]:
    paper = study.paper
    if paper is None:
        return []
    return [
        f"Beside {measure_title(paper.beside)} stand the paper's figures, from {paper.source}: {paper.measure}. "
        "Model and rows are others, so only the order and the direction can be compared."
    ]


def _share_rows(study: StudyConfig, shares: Sequence[Figure]) -> Rows:
    with_paper = study.paper is not None
    heads = ("cell", "measure", "model", "right", "interval", "seeds", "answers") + (("paper",) if with_paper else ())
    rows = [
        (
            *(
                one.cell,
                measure_title(one.measure),
                model_title(study, one.model),
                percent(one.mean),
                interval(one.interval),
            ),
            *(str(one.seeds), f"{one.rows:,}"),
            *((percent(one.paper, 2),) if with_paper else ()),
        )
        for one in shares
    ]
    return Rows(heads, rows, (3, 4, 5, 6, 7))


def _comparison_rows(study: StudyConfig, compared: Sequence[Comparison]) -> Rows:
    heads = (
        "cell",
        "against",
        "measure",
        "model",
        "verdict",
        "points",
        "interval",
        "answers won, lost",
        "p",
        "p, corrected",
        "seeds",
    )
    rows = [
        (
            *(
                one.cell,
                one.other,
                measure_title(one.measure),
                model_title(study, one.model),
                one.verdict,
                points(one.difference),
            ),
            f"{points(one.interval[0])} to {points(one.interval[1])}" if one.interval else NOTHING,
            *(f"{one.wins}, {one.losses}", p_text(one.p_value), _corrected(one), str(one.seeds)),
        )
        for one in compared
    ]
    return Rows(heads, rows, (5, 6, 7, 10))


def _region_rows(regions: Sequence[Figure]) -> Rows:
    by_cell: dict[str, dict[str, Figure]] = {}
    for one in regions:
        by_cell.setdefault(one.cell, {})[one.measure] = one

    def text(one: Figure) -> str:
        index = one.measure.startswith("jaccard")
        mean = f"{one.mean:.3f}" if index else percent(one.mean, 2)
        if one.interval is None:
            return mean
        half = (one.interval[1] - one.interval[0]) / 2
        return f"{mean} ± {half:.3f}" if index else f"{mean} ± {100 * half:.2f}"

    shown = list(dict.fromkeys(one.measure for one in regions))
    rows = [
        (name, *(text(own[region]) if region in own else NOTHING for region in shown)) for name, own in by_cell.items()
    ]
    return Rows(("cell", *map(_region_title, shown)), rows, tuple(range(1, len(shown) + 1)))


def _region_title(measure: str) -> str:
    """The title of a partition's metric; for named systems, composed from the parts of its name."""
    if measure in _SHOWN_REGIONS:
        return _SHOWN_REGIONS[measure]
    if measure.startswith("jaccard "):
        return f"Jaccard of {measure.removeprefix('jaccard ').replace('/', ' and ')}"
    if measure.endswith("_trained_fraction"):
        return f"phases of {measure.removesuffix('_trained_fraction')} train"
    return f"{measure.removesuffix('_only_share_of_set')} only, of its set"


def _cost_rows(results: Sequence[Result]) -> Rows:
    heads = ("cell", "seed", "time", "SFT steps", "SFT tokens", "SFT elements", "RL steps", "RL tokens", "RL elements")
    rows = [
        (
            *(result.cell.name, str(result.cell.seed), duration(result.cost.seconds)),
            *(
                NOTHING if value is None else f"{value:,}"
                for value in (
                    *(result.cost.sft_steps, result.cost.sft_tokens, result.cost.sft_active),
                    *(result.cost.rl_steps, result.cost.rl_tokens, result.cost.rl_active),
                )
            ),
        )
        for result in results
    ]
    return Rows(heads, rows, tuple(range(1, len(heads))))


def _cost_line(result: Result) -> dict[str, Any]:
    return {"cell": result.cell.name, "seed": result.cell.seed, **vars(result.cost)}


def _corrected(one: Comparison) -> str:
    return p_text(one.corrected)


def _markdown(
    study: StudyConfig,
    about: str,
    sentences: Sequence[str],
    sections: Sequence[tuple[str, list[str], Rows]],
    tests: str,
) -> str:
    parts = [f"# Study {study.name}", f"{study.title} {about}", *sentences]
    for title, notes, rows in sections:
        parts += [f"## {title}", *notes, rows.markdown() if rows.rows else "Nothing yet."]
    if study.missing:
        parts += ["## What is not in it", "\n".join(f"- {line}" for line in study.missing)]
    return "\n\n".join([*parts, "## Tests", tests]) + "\n"


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(path, text.getvalue())
