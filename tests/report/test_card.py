"""Plots for the model card: whole SVG files, the same bytes from the same artifacts."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from lorapar.report.elements import card_plots
from lorapar.report.sources import ReportSources


def test_each_plot_is_a_picture_of_its_own(sources: ReportSources) -> None:
    plots = card_plots(sources.rl, sources.partition)
    assert set(plots) == {"reward", "importance", "theta"}
    assert card_plots(sources.rl, sources.partition) == plots
    for caption, svg in plots.values():
        assert caption
        root = ElementTree.fromstring(svg)  # noqa: S314 (we drew it)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert ".curve" in svg
        assert not re.search(r"(href|src)=", svg), "it needs nothing beside it"


def test_without_a_history_there_is_no_curve(tmp_path, sources: ReportSources) -> None:
    assert "reward" not in card_plots(tmp_path, sources.partition)
