"""The results of a study: the rows each cell answered right, and means over seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.config.study import StudyConfig
from lorapar.config.training import methods_of, systems_trained
from lorapar.evaluation.accuracy import read_outcomes
from lorapar.evaluation.intervals import wilson_interval
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.records import Example, digest_of, read_json, read_records
from lorapar.stages.contract import is_cached
from lorapar.study.cells import Cell, named_cells
from lorapar.study.statistics import seed_interval

MODELS = ("base", "after_sft", "after_rl")
REGIONS = (
    *("system1_only_share_of_set", "system2_only_share_of_set", "shared_fraction", "jaccard"),
    *("sft_active_fraction", "rl_active_fraction"),
)
"""Metrics of a partition that a study shows."""
Rows = dict[str, bool]
"""Whether each row was answered right, by the row's content, so that a row is the same with every seed."""


@dataclass(frozen=True)
class Cost:
    """The cost of a cell, as if it had shared nothing."""

    seconds: float
    sft_steps: int | None
    rl_steps: int | None
    rl_tokens: int | None
    """Tokens that were sampled in RL."""
    sft_active: int | None
    """Elements that SFT trained; with several phases, the largest number in one of them."""
    rl_active: int | None
    sft_tokens: int | None = None
    """Tokens of the rows that SFT read, prompts and answers; None of a run that did not record them."""


@dataclass(frozen=True)
class Step:
    """One stage of a finished cell."""

    stage: str
    key: str
    """A key that is equal for cells that share the stage."""
    seconds: float
    adapter: str = ""
    """Digest of the adapter that it made."""

    @classmethod
    def of(cls, record: StageRecord) -> Step:
        """From the parts of a record that tables need."""
        return cls(record.stage, record.key, record.seconds, record.outputs.get("adapter", ""))


@dataclass(frozen=True)
class Result:
    """One cell with one seed that has finished."""

    cell: Cell
    rows: dict[tuple[str, str], Rows]
    """By model and metric."""
    regions: dict[str, float]
    scores: dict[str, list[float]] = field(repr=False)
    """The scores, by system, of the elements that the partition's summary draws."""
    elements: tuple[Any, ...]
    """Values that decide which elements these are."""
    again: dict[str, float]
    """The rank correlation, by system, of the scores before and after SFT; empty where it did not score again."""
    cost: Cost
    steps: dict[str, Step] = field(repr=False)
    """By node."""


@dataclass(frozen=True)
class Figure:
    """The mean over seeds of one share."""

    cell: str
    model: str
    """Empty for a metric of the partition."""
    measure: str
    mean: float
    interval: tuple[float, float] | None
    """The interval over seeds; with one seed, over rows if it is a share of rows, else None."""
    seeds: int
    rows: int
    """Answers of all seeds together."""
    paper: float | None = None


def read_result(cell: Cell, folder: RunFolder) -> Result:
    """The result of a finished cell; raises BadInputError for a broken file."""
    records = folder.records()
    rows: dict[tuple[str, str], Rows] = {}
    if "execute" in records:
        digests = _row_digests(folder.artifact("tally", "heldout"), cell.config.system_names)
        for measure, models in read_outcomes(folder.artifact("execute", "evaluation"), "strict").items():
            for model in MODELS:
                if model in models:
                    rows[model, measure] = {
                        digests.get((measure, row), row): right for row, right in models[model].items()
                    }
    partition = read_json(folder.artifact("partition", "partition") / "summary.json")
    regions = _regions(partition)
    drawn = partition.get("scatter") or {}
    scores = {system: drawn[system] for system in cell.config.system_names if system in drawn}
    adapter = cell.config.adapter
    elements = (partition["elements"], adapter.rank, adapter.layout)
    steps = {name: Step.of(record) for name, record in records.items()}
    again, cost = _again(folder, records), _cost(folder, records)
    if "sft" in records:
        regions = _as_trained(regions, cell, cost, partition["elements"] if again else None)
    return Result(cell, rows, regions, scores, elements, again, cost, steps)


def _as_trained(regions: dict[str, float], cell: Cell, cost: Cost, scored_again: int | None) -> dict[str, float]:
    """Without the shares of elements that no phase trained; RL's own where it scored that many elements again."""
    if cell.config.system_names == SYSTEMS:
        trained = {f"{method}_active_fraction" for method in cell.config.methods}
    else:
        trained = {f"{system}_trained_fraction" for system, _ in systems_trained(cell.config.phases)}
    kept = {
        name: value
        for name, value in regions.items()
        if name in trained or not name.endswith(("_active_fraction", "_trained_fraction"))
    }
    if scored_again and cost.rl_active is not None and "rl_active_fraction" in kept:
        kept["rl_active_fraction"] = cost.rl_active / scored_again
    return kept


def _again(folder: RunFolder, records: dict[str, StageRecord]) -> dict[str, float]:
    found = read_json(folder.artifact("rl", "adapter") / "summary.json") if "rl" in records else {}
    return dict((found.get("scored_again") or {}).get("rank_correlation") or {})


def _regions(partition: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a partition that a study shows; for named systems, by their names."""
    if (named := partition.get("systems")) is None:
        return {name: float(partition[name]) for name in REGIONS}
    keys = [*(f"{one}_only_share_of_set" for one in named), "shared_fraction"]
    trained = [f"{one}_trained_fraction" for one in named]
    alike = {f"jaccard {pair}": float(value) for pair, value in partition["jaccards"].items()}
    return {**{key: float(partition[key]) for key in (*keys, *trained)}, **alike}


def _row_digests(heldout: Path, systems: Sequence[str]) -> dict[tuple[str, str], str]:
    """The digest of a held-out row's content, by system and name: names repeat across seeds with other rows."""
    found: dict[tuple[str, str], str] = {}
    for system in systems:
        times: Counter[str] = Counter()
        for row in read_records(heldout / f"{system}.jsonl", Example):
            digest = digest_of([row.asked, row.answer])
            times[digest] += 1
            found[system, row.id] = f"{digest} {times[digest]}"
    return found


def _cost(folder: RunFolder, records: dict[str, StageRecord]) -> Cost:
    sft, rl = (records[name].metrics if name in records else {} for name in ("sft", "rl"))
    return Cost(
        seconds=sum(record.seconds for record in records.values()),
        sft_steps=_whole(sum(found)) if (found := _each("sft", "steps", (sft, rl))) else None,
        rl_steps=_whole(sum(found)) if (found := _each("rl", "steps", (rl, sft))) else None,
        rl_tokens=_sampled(folder.artifact("rl", "adapter")) if "rl" in records else None,
        sft_tokens=_whole(sum(found)) if (found := _each("sft", "tokens_read", (sft, rl))) else None,
        sft_active=_whole(max(_each("sft", "active_elements", (sft, rl)), default=None)),
        rl_active=_whole(max(_each("rl", "active_elements", (rl, sft)), default=None)),
    )


def _each(method: str, key: str, nodes: Sequence[Mapping[str, float]]) -> list[float]:
    """A metric of all named phases of a method in both nodes, or else of the method's own node, the first one.

    A node with a single phase names it without the phase's number.
    """
    found = [
        value for metrics in nodes for name, value in metrics.items() if re.fullmatch(rf"\d+_\w+_{method}_{key}", name)
    ]
    if key in nodes[0] and not any(re.match(r"\d+_", name) for name in nodes[0]):
        found.append(nodes[0][key])
    apart = f"sft_{key}"  # of an SFT after RL, or in the same phase
    return found + [metrics[apart] for metrics in nodes[1:] if method == "sft" and apart in metrics]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _sampled(adapter: Path) -> int | None:
    """Completions times their mean length: every step samples the same number."""
    summary = read_json(adapter / "summary.json")
    if sum(phase["method"] == "rl" for phase in summary.get("phases", ())) > 1:
        return None  # the history belongs to the last one
    completions = summary.get("completions")
    if not (adapter / "history.jsonl").is_file():
        return None  # this node has trained nothing
    lines = (adapter / "history.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = [step["completion_length"] for step in map(json.loads, lines) if "completion_length" in step]
    return round(completions * fmean(lengths)) if completions and lengths else None


def figures(study: StudyConfig, results: Sequence[Result]) -> list[Figure]:
    """Every cell's means, in the order of the cells, with the paper's value for the nearest metric."""
    found = []
    shown: list[Any] = []
    for name, own in by_cell(study, results):
        for model, measure in readings(own):
            with_it = [result.rows[model, measure] for result in own if result.rows.get((model, measure))]
            if model == "base":
                if (measure, with_it) in shown:  # the same model in every cell
                    continue
                shown.append((measure, with_it))
            shares = [sum(rows.values()) / len(rows) for rows in with_it]
            interval = seed_interval(shares, study.confidence)
            if len(with_it) == 1:
                (rows,) = with_it
                interval = wilson_interval(sum(rows.values()), len(rows), study.confidence)
            found.append(
                Figure(
                    cell=name,
                    model=model,
                    measure=measure,
                    mean=fmean(shares),
                    interval=None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1])),
                    seeds=len(with_it),
                    rows=sum(map(len, with_it)),
                    paper=_papers(study, name, model, measure),
                )
            )
    return found


def region_means(study: StudyConfig, results: Sequence[Result]) -> list[Figure]:
    """The means of the partitions' metrics."""
    found = []
    for name, own in by_cell(study, results):
        for region in dict.fromkeys(region for result in own for region in result.regions):
            shares = [result.regions[region] for result in own if region in result.regions]
            interval = seed_interval(shares, study.confidence)
            found.append(Figure(name, "", region, fmean(shares), interval, len(shares), 0))
    return found


def seconds_spent(results: Iterable[Result]) -> float:
    """Seconds of all stages of a study, with shared stages counted once."""
    once: dict[str, float] = {}
    own = 0.0
    for result in results:
        for step in result.steps.values():
            if is_cached(step.stage):
                once[step.key] = step.seconds
            else:
                own += step.seconds
    return own + sum(once.values())


def by_cell(study: StudyConfig, results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """The results of each cell with any, in the order of the tables."""
    found = {name: [result for result in results if result.cell.name == name] for name, _ in named_cells(study)}
    return [(name, own) for name, own in found.items() if own]


def varies_phases(study: StudyConfig) -> bool:
    """Whether its cells may train in another order than SFT, then RL."""
    return "phases" in {*study.settings, *study.grid, *(key for cell in study.cells for key in cell.settings)}


def readings(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Evaluated models and metrics, metrics first; after SFT only where training begins with it."""
    keys = dict.fromkeys(key for result in results for key, rows in result.rows.items() if rows)
    if any(methods_of(result.cell.config.phases[0]) != ("sft",) for result in results):
        keys = {key: None for key in keys if key[0] != "after_sft"}
    measures = list(dict.fromkeys(measure for _, measure in keys))
    return sorted(keys, key=lambda key: (measures.index(key[1]), MODELS.index(key[0])))


def _papers(study: StudyConfig, cell: str, model: str, measure: str) -> float | None:
    """The paper's value for the same question, with another model and other rows."""
    if study.paper is None or measure != study.paper.beside:
        return None
    return next((one.value for one in study.paper.figures if (one.cell, one.model) == (cell, model)), None)


def as_row(figure: Any) -> dict[str, Any]:
    """A row of a CSV file, with unrounded numbers."""
    values = dict(vars(figure))
    low, high = values.pop("interval") or (None, None)
    return {**values, "low": low, "high": high}
