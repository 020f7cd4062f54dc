"""What each page shows: rows that a filter lets through, two runs side by side, a run as it is now, adapters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lorapar import __version__
from lorapar.config import SYSTEMS
from lorapar.errors import LoraparError
from lorapar.local.live import WatchedRun
from lorapar.redaction import redact
from lorapar.registry import Registry
from lorapar.registry.overview import adapter_row, adapter_rows, version_rows
from lorapar.report import formats
from lorapar.report.svg import Plot, Point, padded
from lorapar.report.training import plot_lines, series
from lorapar.tracking import flat
from lorapar.ui.runs import STATES, Document, RunRow, Runs, Score

FOLDER = Path(__file__).parent
ROWS_A_PAGE = 100
FAST_SECONDS, SLOW_SECONDS = 5, 30
"""How often the script looks again while a run goes on, and where none does."""
CURVES = (("sft", "loss", "SFT: loss"), ("rl", "reward", "RL: reward"))
_LINES = ("series1", "series2")


def environment() -> Environment:
    """Templates of this folder; what they put out is text without credentials."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_credentials,
    )
    for name in ("percent", "points", "number", "duration", "shorten"):
        made.filters[name] = getattr(formats, name)
    made.filters["system"] = formats.system_name
    made.filters["score"] = score_words
    made.globals["version"] = __version__
    return made


def _without_credentials(value: Any) -> Any:
    """Before it is escaped: a credential with `&` in it would be another one on the page."""
    return redact(value) if isinstance(value, str) and not isinstance(value, Markup) and len(value) > 7 else value


def score_words(value: float | None, is_loss: bool = False) -> str:
    """An accuracy as a share, a loss in nats."""
    if value is None:
        return formats.NOTHING
    return f"{value:.3f}" if is_loss else formats.percent(value)


@dataclass(frozen=True)
class Filter:
    """What of the runs somebody wants to see; empty lets everything through."""

    text: str = ""
    state: str = ""
    base: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """From the query of an address; a page that is no number is the first."""
        page = query.get("page", "1")
        number = int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1
        return cls(query.get("text", "")[:200].strip(), query.get("state", ""), query.get("base", ""), max(1, number))

    def picks(self, rows: Iterable[RunRow]) -> list[RunRow]:
        """Rows in which every word of the text stands, of that state and base."""
        words = self.text.casefold().split()
        return [
            row
            for row in rows
            if (not self.state or row.state == self.state)
            and (not self.base or row.base == self.base)
            and all(word in row.words for word in words)
        ]

    def query(self, page: int) -> dict[str, str]:
        """The query of another page of the same."""
        named = {"text": self.text, "state": self.state, "base": self.base, "page": str(page) if page > 1 else ""}
        return {name: value for name, value in named.items() if value}


def runs_page(runs: Runs, asked: Filter) -> dict[str, Any]:
    """The list of runs."""
    everything = runs.rows()
    picked = asked.picks(everything)
    pages = max(1, math.ceil(len(picked) / ROWS_A_PAGE))
    page = min(asked.page, pages)
    rows = picked[(page - 1) * ROWS_A_PAGE : page * ROWS_A_PAGE]
    return {
        "rows": rows,
        "systems": systems_of(rows),
        "picked": len(picked),
        "all": len(everything),
        "going_on": sum(row.state == "running" for row in everything),
        "asked": asked,
        "page": page,
        "pages": pages,
        "states": STATES,
        "bases": sorted({row.base for row in everything if row.base}),
        "every": FAST_SECONDS if any(row.state == "running" for row in everything) else SLOW_SECONDS,
    }


def systems_of(rows: Sequence[RunRow]) -> tuple[str, ...]:
    """The systems of these runs, a column each; the two where there is no run."""
    return tuple(dict.fromkeys(system for row in rows for system in row.scores)) or SYSTEMS


def run_page(runs: Runs, run: str) -> dict[str, Any] | None:
    """One run: figures, stages, and while it goes on what it says of itself."""
    row = runs.row(run)
    if row is None:
        return None
    metrics, watched = runs.metrics(run), _watched(runs, run)
    histories = runs.histories(run)
    for live in watched.now if watched else ():
        if live.history and live.node in ("sft", "rl"):
            histories[live.node] = live.history
    rollouts = next((live.rollouts for live in watched.now if live.rollouts), []) if watched else []
    return {
        "row": row,
        "reasons": (metrics.get("verdict") or {}).get("reasons") or (),
        "watched": watched,
        "curves": curves([(row.id, histories)]),
        "rollouts": rollouts[:4],
        "has_report": bool(metrics),
        "every": FAST_SECONDS if row.goes_on else 0,
    }


def _watched(runs: Runs, run: str) -> WatchedRun | None:
    """As `lorapar watch` sees it; None where nothing has begun yet."""
    try:
        return runs.watcher(run).look()
    except LoraparError:
        return None


@dataclass(frozen=True)
class Difference:
    """A setting with its value in each of two runs; None where one has no such setting."""

    key: str
    first: str | None
    second: str | None


def compare_page(runs: Runs, names: Sequence[str]) -> dict[str, Any] | None:
    """Two runs side by side; None where one of them is not there."""
    rows = [row for name in names if (row := runs.row(name)) is not None]
    if len(rows) != 2:
        return None
    first, second = rows
    return {
        "rows": rows,
        "settings": differences(runs.settings(first.id), runs.settings(second.id)),
        "scores": [(system, first.scores.get(system), second.scores.get(system)) for system in systems_of(rows)],
        "curves": curves([(row.id, runs.histories(row.id)) for row in rows]),
        "every": 0,
    }


def differences(first: Document, second: Document) -> list[Difference]:
    """Settings whose values differ, in the order of the first run's."""
    left, right = ({key: _text(value) for key, value in flat(settings)} for settings in (first, second))
    return [
        Difference(key, left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)
    ]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not set", True: "yes", False: "no"}[value]
    text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return formats.shorten(text, 400)


@dataclass(frozen=True)
class Curve:
    """One drawing, and the names of its lines with their classes in charts.css."""

    title: str
    drawing: Markup
    legend: tuple[tuple[str, str], ...]


def curves(runs: Sequence[tuple[str, Mapping[str, Sequence[Mapping[str, float]]]]]) -> list[Curve]:
    """Loss of SFT and reward of RL over the steps, a line a run; those that no run has are left out."""
    found = []
    for node, key, title in CURVES:
        lines = [(name, series(histories.get(node, ()), key)) for name, histories in runs]
        if any(points for _, points in lines):
            found.append(_drawn(title, key, lines))
    return found


def _drawn(title: str, unit: str, lines: Sequence[tuple[str, Sequence[Point]]]) -> Curve:
    points = [point for _, some in lines for point in some]
    steps, values = [step for step, _ in points], [value for _, value in points]
    plot = Plot.of(f"{title} over steps", (min(steps), max(steps)), padded(values))
    drawn = plot_lines(
        plot, [(f"curve {style}", some) for style, (_, some) in zip(_LINES, lines, strict=False) if some]
    )
    ticks = [tick for tick in plot.x.ticks() if tick == round(tick)]
    legend = tuple((style, name) for style, (name, some) in zip(_LINES, lines, strict=False) if some)
    return Curve(title, plot.draw(plot.y_axis(unit), *drawn, plot.x_axis("step", ticks)), legend)


def adapters_page(registry: Registry | None) -> dict[str, Any]:
    """Adapters of the registry with their aliases."""
    rows = adapter_rows(registry) if registry is not None else []
    return {"address": registry.address if registry is not None else None, "rows": rows, "every": 0}


def adapter_page(registry: Registry | None, name: str) -> dict[str, Any] | None:
    """One adapter: its versions and every move of its aliases, the newest first. Raises IntegrityError for damage."""
    if registry is None:
        return None
    row = adapter_row(registry, name)
    if not row.versions and not row.aliases and row.fault is None:
        return None
    moves = [
        {"alias": alias, **move.model_dump()}
        for alias, record in row.aliases.items()
        for move in reversed(record.moves)
    ]
    return {
        "row": row,
        "versions": [asdict(one) for one in version_rows(registry, name)],
        "moves": sorted(moves, key=lambda move: str(move["moved_at"]), reverse=True),
        "every": 0,
    }


def change_words(score: Score) -> str:
    """How far training moved a metric: points of accuracy, or nats of loss."""
    if score.before is None or score.after is None:
        return ""
    moved = score.after - score.before
    return f"{moved:+.3f}".replace("-", "−") if score.is_loss else formats.points(moved)  # noqa: RUF001
