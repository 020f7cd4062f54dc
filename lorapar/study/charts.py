"""Charts of a study, and what its tables and charts call models and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorapar.config.study import StudyConfig
from lorapar.report.formats import model_name, system_name
from lorapar.report.page import Point, Series, dot_chart, key_of, line_chart
from lorapar.study.cells import named_cells
from lorapar.study.results import Figure, varies_phases


def model_title(study: StudyConfig, model: str) -> str:
    """`after RL` is the published adapter; with other orders of training its last phase is not RL."""
    return "at the end" if model == "after_rl" and varies_phases(study) else model_name(model)


def measure_title(measure: str) -> str:
    return system_name(measure)


def charts(study: StudyConfig, shares: Sequence[Figure]) -> list[dict[str, Any]]:
    """One chart for each metric and model over a numeric setting of the grid, or else one for each metric."""
    axis = _axis(study)
    values = dict(named_cells(study))
    found = []
    for measure in dict.fromkeys(one.measure for one in shares):
        own = [one for one in shares if one.measure == measure and one.model != "base"]
        if axis is None:
            series = [_series(model_title(study, m), [one for one in own if one.model == m]) for m in _models(own)]
            found.append(
                _chart(study, measure, None, series, dot_chart(f"Right answers on {measure_title(measure)}", series))
            )
            continue
        for model in _models(own):
            lines: dict[str, list[Figure]] = {}
            for one in own:
                if one.model == model:
                    rest = ", ".join(str(value) for key, value in values[one.cell].items() if key != axis)
                    lines.setdefault(rest or "here", []).append(one)
            series = [_series(name, line, axis, values) for name, line in lines.items()]
            title = f"{measure_title(measure)} {model_title(study, model)} over {axis}"
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
    title = measure_title(measure) + (f", {model_title(study, model)}" if model else "")
    return {"title": title, "key": key_of(series), "drawing": drawing, "caption": caption}
