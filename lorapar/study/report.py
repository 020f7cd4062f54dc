"""The result of a study as files: report.html, report.md, and CSV files with all their values."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar import __version__
from lorapar.config.study import StudyConfig
from lorapar.report.formats import NOTHING, count_of, duration, interval, model_name, percent, points, system_name
from lorapar.report.formats import p_value as p_text
from lorapar.report.page import Point, Series, dot_chart, key_of, line_chart, render_study
from lorapar.stages.graph import GRAPH
from lorapar.store import write_atomically
from lorapar.study.cells import Cell, named_cells, reference_of
from lorapar.study.correlation import Correlation, correlations
from lorapar.study.folder import StudyFolder
from lorapar.study.kept import result_of
from lorapar.study.results import (
    Comparison,
    Figure,
    Result,
    as_row,
    by_cell,
    comparisons,
    figures,
    region_means,
    seconds_spent,
    varies_phases,
)

if TYPE_CHECKING:
    from rich.table import Table

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
    "It is corrected for all comparisons of the study together by Holm's method. “Better” asks for a corrected p-value "
    "below {level:g} and that no seed points the other way; everything else is noise, or seeds disagree. Intervals of "
    "means and differences are Student's over seeds, {percent:g}%; of a single seed Wilson's over rows."
)


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


def write_study_report(study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder) -> Path:
    """Write report.html, report.md and the CSV files from the cells that have finished; returns the page's path."""
    done = [cell for cell in cells if folder.is_finished(cell, __version__, study.until)]
    results = [result_of(cell, folder) for cell in done]
    shares, regions, compared = figures(study, results), region_means(study, results), comparisons(study, results)
    _write_csv(folder.root / "figures.csv", [as_row(one) for one in (*shares, *regions)])
    _write_csv(folder.root / "comparisons.csv", [as_row(one) for one in compared])
    alike = correlations(study, dict(by_cell(study, results))) if _looks_at_scores(study, results) else []
    if alike:
        _write_csv(folder.root / "correlations.csv", [vars(one) for one in alike])
    _write_csv(folder.root / "cells.csv", [_cost_line(result) for result in results])
    about = _about(study, cells, results, folder)
    sentences = _sentences(study, compared)
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
        charts=_charts(study, shares),
        sections=[{"title": title, "notes": notes, "rows": rows} for title, notes, rows in sections],
        missing=study.missing,
        tests=tests,
    )
    write_atomically(folder.root / "report.html", page)
    return folder.root / "report.html"


@dataclass(frozen=True)
class Standing:
    """The progress of a cell."""

    cell: Cell
    state: str
    reached: str
    """Its last finished stage; empty: none."""
    nodes: int
    """Its finished stages."""
    last: int
    """The number of all its stages."""
    seconds: float | None
    line: str
    """The error of a failed cell."""


def standings(study: StudyConfig, cells: Sequence[Cell], folder: StudyFolder) -> list[Standing]:
    """The state of each cell, how far it came, and how long its last start took."""
    nodes = [node.name for node in GRAPH]
    running, last = folder.is_running, nodes.index(study.until) + 1
    found = []
    for cell in cells:
        state, reached = folder.state(cell), folder.reached(cell)
        status: str = state.status if state else "waiting"
        if status == "running" and not running:
            status = "stopped"
        if state is not None and status == "finished" and not folder.is_finished(cell, __version__, study.until):
            status = "settings changed" if state.version == __version__ else "of another version"
        if status == "finished" and not reached:  # its run folder is missing, its result is kept
            reached = study.until
        far = nodes.index(reached) + 1 if reached else 0
        seconds, line = (state.seconds or None, state.line) if state else (None, "")
        found.append(Standing(cell, status, reached or "", far, last, seconds, line))
    return found


def status_table(rows: Sequence[Standing]) -> Table:
    """The same as a table for people."""
    from rich.table import Table

    table = Table("cell", "seed", "state", "reached", "time", "", box=None, header_style="bold")
    for one in rows:
        far = f"{one.reached} ({one.nodes}/{one.last})" if one.reached else ""
        table.add_row(one.cell.name, str(one.cell.seed), one.state, far, duration(one.seconds), one.line)
    return table


def _about(study: StudyConfig, cells: Sequence[Cell], results: Sequence[Result], folder: StudyFolder) -> str:
    states = Counter(state.status if (state := folder.state(cell)) else "waiting" for cell in cells)
    failed = states["failed"]
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
        return ["There are no two finished cells with a seed in common yet, so nothing can be compared."]
    text = [
        f"{one.cell} is {one.verdict} than {one.other} on {_measure(one.measure)} {_model(study, one.model)}: "
        f"{points(one.difference)} points ({_corrected(one)}, {count_of(one.seeds, 'seed')})."
        for one in compared
        if one.verdict in ("better", "worse")
    ]
    torn = [one for one in compared if one.verdict == "seeds disagree"]
    if torn:
        named = "; ".join(f"{one.cell} on {_measure(one.measure)} {_model(study, one.model)}" for one in torn)
        text.append(f"Seeds disagree, whatever the rows say, about {named}.")
    noise = sum(one.verdict in ("noise", "equal") for one in compared)
    if noise == len(compared):
        text.append(f"No difference is more than noise: {count_of(len(compared), 'comparison')} were made.")
    elif noise:
        text.append(f"The other {noise} of {len(compared)} comparisons show no difference beyond noise.")
    if max(one.seeds for one in compared) == 1:
        text.append("One seed was run: what is better here may not be so with another.")
    return text


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
        "As if each cell had shared nothing. Elements are those that SFT and RL trained, tokens those sampled in RL. "
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
            _measure(one.system),
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
        f"Beside {_measure(paper.beside)} stand the paper's figures, from {paper.source}: {paper.measure}. "
        "Model and rows are others, so only the order and the direction can be compared."
    ]


def _share_rows(study: StudyConfig, shares: Sequence[Figure]) -> Rows:
    with_paper = study.paper is not None
    heads = ("cell", "measure", "model", "right", "interval", "seeds", "answers") + (("paper",) if with_paper else ())
    rows = [
        (
            *(one.cell, _measure(one.measure), _model(study, one.model), percent(one.mean), interval(one.interval)),
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
        "rows won, lost",
        "p",
        "p, corrected",
        "seeds",
    )
    rows = [
        (
            *(
                one.cell,
                one.other,
                _measure(one.measure),
                _model(study, one.model),
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
    heads = ("cell", "seed", "time", "SFT steps", "SFT elements", "RL steps", "RL elements", "RL tokens")
    rows = [
        (
            *(result.cell.name, str(result.cell.seed), duration(result.cost.seconds)),
            *(
                NOTHING if value is None else f"{value:,}"
                for value in (
                    *(result.cost.sft_steps, result.cost.sft_active, result.cost.rl_steps, result.cost.rl_active),
                    result.cost.rl_tokens,
                )
            ),
        )
        for result in results
    ]
    return Rows(heads, rows, tuple(range(1, 8)))


def _cost_line(result: Result) -> dict[str, Any]:
    return {"cell": result.cell.name, "seed": result.cell.seed, **vars(result.cost)}


def _corrected(one: Comparison) -> str:
    return p_text(one.corrected)


def _model(study: StudyConfig, model: str) -> str:
    """`after RL` is the published adapter; with other orders of training its last phase is not RL."""
    return "at the end" if model == "after_rl" and varies_phases(study) else model_name(model)


def _measure(measure: str) -> str:
    return system_name(measure)


def _charts(study: StudyConfig, shares: Sequence[Figure]) -> list[dict[str, Any]]:
    """One chart for each metric and model over a numeric setting of the grid, or else one for each metric."""
    axis = _axis(study)
    values = dict(named_cells(study))
    found = []
    for measure in dict.fromkeys(one.measure for one in shares):
        own = [one for one in shares if one.measure == measure and one.model != "base"]
        if axis is None:
            series = [_series(_model(study, m), [one for one in own if one.model == m]) for m in _models(own)]
            found.append(
                _chart(study, measure, None, series, dot_chart(f"Right answers on {_measure(measure)}", series))
            )
            continue
        for model in _models(own):
            lines: dict[str, list[Figure]] = {}
            for one in own:
                if one.model == model:
                    rest = ", ".join(str(value) for key, value in values[one.cell].items() if key != axis)
                    lines.setdefault(rest or "here", []).append(one)
            series = [_series(name, line, axis, values) for name, line in lines.items()]
            title = f"{_measure(measure)} {_model(study, model)} over {axis}"
            found.append(_chart(study, measure, model, series, line_chart(title, axis, series)))
    return found


def _axis(study: StudyConfig) -> str | None:
    """The setting of the grid with the most numbers, at least three; None without one."""
    numeric = {
        key: len(values)
        for key, values in study.grid.items()
        if len(values) >= 3 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    }
    return max(numeric, key=lambda key: numeric[key], default=None)


def _models(shares: Sequence[Figure]) -> list[str]:
    return list(dict.fromkeys(one.model for one in shares))


def _series(
    name: str, shares: Sequence[Figure], axis: str | None = None, values: dict[str, Any] | None = None
) -> Series:
    return Series(
        name,
        tuple(
            Point(
                one.cell, float(values[one.cell][axis]) if axis and values else 0.0, one.mean, one.interval, one.paper
            )
            for one in shares
        ),
    )


def _chart(
    study: StudyConfig, measure: str, model: str | None, series: Sequence[Series], drawing: Any
) -> dict[str, Any]:
    paper = any(point.paper is not None for one in series for point in one.points)
    caption = "Mean over seeds with its interval." + (
        " Open circles: the paper, another model on other rows." if paper else ""
    )
    title = _measure(measure) + (f", {_model(study, model)}" if model else "")
    return {"title": title, "key": key_of(series), "drawing": drawing, "caption": caption}


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
