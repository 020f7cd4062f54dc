"""Cells of a study compared with each other on the same rows of the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from lorapar.config.study import StudyConfig
from lorapar.report.formats import count_of, system_name
from lorapar.study.cells import reference_of
from lorapar.study.results import Result, by_cell, readings
from lorapar.study.statistics import holm, seed_interval, sign_change_p

Verdict = Literal["better", "worse", "these seeds only", "seeds disagree", "noise", "equal"]
_Cells = dict[str, list[Result]]


@dataclass(frozen=True)
class Comparison:
    """One cell against another on the same rows of the same seeds."""

    cell: str
    other: str
    model: str
    measure: str
    difference: float
    """Mean over seeds of the share of right answers minus the other cell's."""
    interval: tuple[float, float] | None
    """The interval over seeds; None with one seed."""
    p_value: float
    corrected: float
    """The p-value corrected by Holm for all comparisons of the study."""
    seeds: int
    rows: int
    wins: int
    losses: int
    verdict: Verdict


def comparisons(study: StudyConfig, results: Sequence[Result]) -> list[Comparison]:
    """Each cell against the reference, or all pairs, on every metric, after SFT and after RL."""
    cells = dict(by_cell(study, results))
    found: dict[Any, _Compared] = {}
    for pair in _pairs(study, cells):
        for reading in readings(cells[pair[0]]):
            one = _Compared.of(cells, pair, reading)
            if one is None:
                continue
            first, second = (_adapters(cells[name], reading[0], one.seeds) for name in pair)
            if first != second:
                # Cells that share an SFT are compared once after it: repeats would make Holm stricter for all
                # comparisons.
                found.setdefault((first, second, reading), one)
    compared = list(found.values())
    corrected = holm([one.p_value for one in compared])
    return [one.comparison(study.confidence, p) for one, p in zip(compared, corrected, strict=True)]


def not_compared(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """A sentence for each two cells that have finished and are not compared, or not with all seeds, and why."""
    cells = dict(by_cell(study, results))
    against = reference_of(study)
    if study.compare == "reference" and cells and against not in cells:
        return [f"Nothing is compared yet: {against}, which cells are compared with, has not finished with any seed."]
    found = []
    for first, second in _pairs(study, cells):
        of = [{one.cell.seed: one for one in cells[name]} for name in (first, second)]
        common = [seed for seed in of[0] if seed in of[1]]
        if not common:
            found.append(f"{first} and {second} are not compared yet: no seed has finished with both.")
        measures = dict.fromkeys(measure for _, measure in readings(cells[first]))
        if common and not measures:
            found.append(f"{first} and {second} are not compared: no held-out row has a reference answer.")
        for measure in measures if common else ():
            rows = [(_rows(of[0][seed], measure), _rows(of[1][seed], measure)) for seed in common]
            alike = sum(own == other for own, other in rows)
            if alike < len(common):
                found.append(
                    f"{first} and {second} were asked other rows of {system_name(measure)} with "
                    f"{len(common) - alike} of {count_of(len(common), 'seed')}, which are not compared."
                )
    return found


def _rows(result: Result, measure: str) -> set[str]:
    return {row for (_, of), rows in result.rows.items() if of == measure for row in rows}


def _pairs(study: StudyConfig, cells: _Cells) -> list[tuple[str, str]]:
    """Each cell with a result and what it is compared with."""
    if study.compare == "pairs":
        return [(later, earlier) for earlier, later in combinations(cells, 2)]
    against = reference_of(study)
    return [(name, against) for name in cells if name != against and against in cells]


def _adapters(results: Sequence[Result], model: str, seeds: Collection[int]) -> tuple[tuple[int, str], ...]:
    """The digest of a cell's model by seed; empty for the base, which all cells share."""
    node = {"after_sft": "sft", "after_rl": "rl"}.get(model)
    own = [one for one in results if one.cell.seed in seeds]
    return tuple((one.cell.seed, one.steps[node].adapter) for one in own if node and node in one.steps)


@dataclass(frozen=True)
class _Compared:
    """Two cells on one metric, before all comparisons of the study are known."""

    pair: tuple[str, str]
    reading: tuple[str, str]
    by_row: dict[str, int]
    """By row, the seeds that only the first cell answered right minus those that only the other did."""
    by_seed: dict[int, float]
    """Difference of the shares of right answers, by seed."""
    wins: int
    losses: int
    answers: int

    @property
    def seeds(self) -> Collection[int]:
        return self.by_seed.keys()

    @property
    def shares(self) -> list[float]:
        return list(self.by_seed.values())

    @property
    def p_value(self) -> float:
        return sign_change_p(list(self.by_row.values()))

    @classmethod
    def of(cls, by_cell: _Cells, pair: tuple[str, str], reading: tuple[str, str]) -> _Compared | None:
        """None where the two have no common seed with the same rows."""
        first, second = ({result.cell.seed: result.rows.get(reading, {}) for result in by_cell[name]} for name in pair)
        by_row: dict[str, int] = {}
        by_seed: dict[int, float] = {}
        wins, losses, answers = 0, 0, 0
        for seed, rows in first.items():
            other = second.get(seed, {})
            if not rows or rows.keys() != other.keys():
                continue
            changed = {row: int(right) - int(other[row]) for row, right in rows.items()}
            for row, change in changed.items():
                by_row[row] = by_row.get(row, 0) + change
            by_seed[seed] = sum(changed.values()) / len(rows)
            wins += sum(change > 0 for change in changed.values())
            losses += sum(change < 0 for change in changed.values())
            answers += len(rows)
        return cls(pair, reading, by_row, by_seed, wins, losses, answers) if by_seed else None

    def comparison(self, confidence: float, corrected: float) -> Comparison:
        interval = seed_interval(self.shares, confidence)
        within = None if interval is None else (max(-1.0, interval[0]), min(1.0, interval[1]))
        return Comparison(
            cell=self.pair[0],
            other=self.pair[1],
            model=self.reading[0],
            measure=self.reading[1],
            difference=fmean(self.shares),
            interval=within,
            p_value=self.p_value,
            corrected=corrected,
            seeds=len(self.shares),
            rows=self.answers,
            wins=self.wins,
            losses=self.losses,
            verdict=self._verdict(round(1.0 - confidence, 9), corrected, interval),
        )

    def _verdict(self, level: float, corrected: float, interval: tuple[float, float] | None) -> Verdict:
        """Rows say whether these adapters differ, seeds whether those of another seed would."""
        if self.wins == self.losses == 0:
            return "equal"
        if corrected >= level:
            return "noise"
        up = fmean(self.shares) > 0
        if any(share < 0 if up else share > 0 for share in self.shares):
            return "seeds disagree"
        if interval is None or interval[0] <= 0.0 <= interval[1] or 0.0 in self.shares:
            return "these seeds only"
        return "better" if up else "worse"
