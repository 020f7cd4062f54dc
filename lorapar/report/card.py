"""Plots for a model card: the report's own drawings, each as an SVG file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from lorapar.report.elements import scatter_chart, theta_chart
from lorapar.report.sources import ReportSources, read_facts
from lorapar.report.svg import style_sheet, tag
from lorapar.report.training import rl_curves

_BACKGROUND = "svg { background: var(--paper); }"


def card_plots(rl: Path, partition: Path) -> dict[str, tuple[str, str]]:
    """By name, caption and SVG: what RL's reward did, and which elements each system trains; what there is of them.

    Equal artifacts give equal bytes.
    """
    facts = read_facts(ReportSources(rl=rl, partition=partition))
    summary = facts.partition or {}
    reward = next((curve for curve in rl_curves(facts.rl_steps or ()) if curve.title == "Reward"), None)
    drawn = {
        "reward": ("Mean reward over the steps of RL", reward.drawing if reward is not None else None),
        "importance": (
            "Importance of LoRA elements for each system, coloured by who trains them",
            scatter_chart(summary),
        ),
        "theta": ("Share of elements in each system's set against theta", theta_chart(summary, with_paper=False)),
    }
    return {name: (caption, _alone(svg)) for name, (caption, svg) in drawn.items() if svg is not None}


def _alone(drawing: Markup) -> str:
    """A drawing with its style sheet inside."""
    opening, rest = drawing.split(">", 1)
    style = tag("style", style_sheet("charts.css"), Markup(_BACKGROUND))  # noqa: S704
    return f"{opening}>{style}{rest}\n"
