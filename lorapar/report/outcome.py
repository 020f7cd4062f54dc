"""What came out, for the report: each system's scores before and after training, and answers side by side.

Scores are shown as sentences and as bars. Answers are chosen by a rule and not by hand, so losses are shown as readily
as wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from markupsafe import Markup

from lorapar.config import SYSTEMS
from lorapar.config.training import DEFAULT_PHASES, methods_of
from lorapar.records import Answer, Example
from lorapar.report.formats import (
    MODELS,
    interval,
    is_number,
    model_name,
    percent,
    phases_text,
    points,
    system_name,
    systems_in,
)
from lorapar.report.metrics import Bounds, Change, Score, changes, find_change, scores
from lorapar.report.sources import Facts
from lorapar.report.svg import Plot, group, line, tag, text, whole_percent

_BAR = 34
_GAP = 6
_SHADES = {"base": "shade1", "after_sft": "shade2", "after_rl": "shade3"}


def outcome_section(facts: Facts) -> dict[str, Any] | None:
    """Scores, changes and charts by system, and both in sentences; None where nothing was evaluated."""
    found, moved = scores(facts), changes(facts)
    if not found:
        return None
    systems = [
        {
            "key": system,
            "title": system_name(system),
            "chart": outcome_chart(found, system),
            "rows": score_rows(found, system),
            "scores": [score for score in found if score.system == system],
            "changes": [change for change in moved if change.system == system],
        }
        for system in systems_in(facts.evaluation or {})
    ]
    level = 100 * (facts.config.evaluate.confidence if facts.config else 0.95)
    return {
        "systems": systems,
        **_texts(facts, moved),
        "level": f"{level:g}",
    }


def _texts(facts: Facts, moved: Sequence[Change]) -> dict[str, Any]:
    """What training won and cost, in sentences; in another order than SFT, then RL, what the names of models mean."""
    phases = facts.config.phases if facts.config else DEFAULT_PHASES
    if phases == DEFAULT_PHASES:
        return {"summary": summary_sentence(moved), "trade": trade_sentences(moved)}
    before = "" if methods_of(phases[0]) == ("sft",) else "“After SFT” is the adapter before training, and "
    note = f"This run trained in the order [{phases_text(phases)}]. {before}“after RL” is the adapter as published."
    return {"summary": None, "trade": [note]}


def summary_sentence(moved: Sequence[Change]) -> str | None:
    """The run in one sentence: what System 2 won during RL and what that cost System 1."""
    won, lost = (find_change(moved, system, "after_sft", "after_rl") for system in ("system2", "system1"))
    if won is None or lost is None:
        return None
    return f"During RL, System 2 {_briefly(won)}; System 1 {_briefly(lost)}."


def _briefly(change: Change) -> str:
    if change.verdict in ("up", "down"):
        return f"went {change.verdict} by {points(abs(change.difference)).removeprefix('+')} points"
    if change.verdict == "unchanged":
        return "changed on no row"
    return f"changed by {points(change.difference)} points, which is within noise"


def trade_sentences(moved: Sequence[Change]) -> list[str]:
    """What System 2 won during RL, and what System 1 lost meanwhile; nothing where RL was not evaluated."""
    won, lost = (find_change(moved, system, "after_sft", "after_rl") for system in ("system2", "system1"))
    sentences = []
    if won is not None:
        sentences.append(f"During RL, System 2 {won.sentence}.")
    if lost is not None:
        sentences.append(f"Over the same steps System 1 {lost.sentence}." + _still_open(lost))
    if won is not None and lost is not None and lost.verdict == "down":
        sentences.append(
            f"So RL cost System 1 {points(-lost.difference).removeprefix('+')} points"
            + (
                " for what System 2 won."
                if won.verdict == "up"
                else " and System 2 has nothing certain to show for it."
            )
        )
    return sentences


def _still_open(change: Change) -> str:
    """A small sample that shows no loss has not shown that there is none."""
    if change.verdict not in ("within noise", "unchanged") or change.bounds[0] >= 0:
        return ""
    return (
        f" The {100 * change.confidence:.0f}% interval of that change runs from {points(change.bounds[0])} to "
        f"{points(change.bounds[1])} points, so a real loss inside it cannot be ruled out."
    )


def score_rows(found: Sequence[Score], system: str) -> list[dict[str, str]]:
    """One system's figures, written out for a table."""
    return [
        {
            "model": model_name(score.model),
            "rows": f"{score.rows:,}",
            "strict": percent(score.strict),
            "strict_interval": interval(score.strict_interval),
            "lenient": percent(score.lenient),
            "lenient_interval": interval(score.lenient_interval),
            "loss": f"{score.loss:.3f}" if is_number(score.loss) else "–",  # noqa: RUF001
        }
        for score in found
        if score.system == system
    ]


def outcome_chart(scores: Sequence[Score], system: str) -> Markup | None:
    """One system's panel; None where nothing was compared with a reference."""
    own = [score for score in scores if score.system == system and score.strict is not None]
    if not own:
        return None
    shown = ", ".join(f"{model_name(score.model)} {percent(score.strict)}" for score in own)
    label = f"Share of right held-out answers of {system_name(system)}: {shown}"
    plot = Plot.of(label, (0.0, float(len(own))), (0.0, 1.0), size=(390, 280), margins=(28, 8, 30, 48))
    bars = [_pair(plot, place + 0.5, score) for place, score in enumerate(own)]
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    names = [
        text(model_name(score.model), plot.x(place + 0.5), plot.y.start + 19, "category", text_anchor="middle")
        for place, score in enumerate(own)
    ]
    base_line = line((plot.x.start, plot.y.start), (plot.x.end, plot.y.start), "axis")
    return plot.draw(plot.y_axis("right answers", shares, whole_percent), *bars, base_line, *names)


def _pair(plot: Plot, place: float, score: Score) -> Markup:
    """The strict bar, filled, and the lenient one, outlined, beside it."""
    centre = plot.x(place)
    shade = f"{_colour(score.system)} {_SHADES.get(score.model, 'shade3')}"
    parts = [_bar(plot, centre - _GAP / 2 - _BAR, f"bar {shade}", score.strict, score.strict_interval)]
    if score.lenient is not None:
        bar = f"bar-open {_colour(score.system)}"
        parts.append(_bar(plot, centre + _GAP / 2, bar, score.lenient, score.lenient_interval))
    return group(parts)


def _bar(plot: Plot, left: float, class_: str, share: float | None, bounds: Bounds | None) -> Markup:
    value = share or 0.0
    top, middle = plot.y(value), left + _BAR / 2
    rectangle = tag("rect", x=left, y=top, width=_BAR, height=max(plot.y.start - top, 0.0), class_=class_)
    label_at = plot.y(bounds[1] if bounds else value) - 6
    label = text(percent(value, 0), middle, label_at, "bar-value", text_anchor="middle")
    return group([rectangle, *_whisker(plot, middle, bounds), label])


def _whisker(plot: Plot, at: float, bounds: Bounds | None) -> list[Markup]:
    if bounds is None:
        return []
    low, high = plot.y(bounds[0]), plot.y(bounds[1])
    stem = line((at, low), (at, high), "whisker")
    return [stem, *(line((at - 5, end), (at + 5, end), "whisker") for end in (low, high))]


def _colour(system: str) -> str:
    return {"system1": "s1", "system2": "s2"}.get(system, "neutral")


RULE = (
    "Held-out rows of each system are sorted into four groups by the strict rule: lost (right in the base or after "
    "SFT, wrong after RL), won (wrong in the base, right after RL), never right, and kept (right in the base and after "
    "RL). One row is then taken from each group in turn, in that order, until a half of the places is full for each "
    "system. Within a group the rows come in the order of the sha256 of their id, so nobody chose them."
)
GROUPS = ("lost", "won", "never right", "kept", "not compared")


@dataclass(frozen=True)
class Sample:
    """One held-out row with every model's answer."""

    system: str
    group: str
    question: str
    reference: str | None
    answers: tuple[tuple[str, Answer], ...]
    """(model, answer) in the order base, after SFT, after RL."""


@dataclass(frozen=True)
class GroupSize:
    """How many rows a group has, and how many of them are shown."""

    system: str
    group: str
    rows: int
    shown: int


def answers_section(facts: Facts) -> dict[str, Any] | None:
    """The chosen answers and the rule that chose them; None where nothing was answered."""
    if not facts.answers:
        return None
    count = facts.config.report.answers if facts.config else 10
    samples, sizes = choose_samples(facts.answers, facts.examples, count)
    return {"samples": samples, "sizes": sizes, "rule": RULE}


def choose_samples(
    answers: Sequence[Answer], examples: Mapping[str, Example], count: int
) -> tuple[list[Sample], list[GroupSize]]:
    """`count` rows in all, half of them of each system (more where the other has too few), and the groups' sizes."""
    rows = _by_row(answers)
    named = dict.fromkeys(sorted(key[0] for key in rows))
    systems = list(SYSTEMS if set(named) == set(SYSTEMS) else named)
    queues = {system: _in_turns(rows, system) for system in systems}
    wanted = _shares({system: len(queue) for system, queue in queues.items()}, count)
    chosen = {system: queue[: wanted[system]] for system, queue in queues.items()}
    samples = [
        _sample(system, group, rows[system, example_id], examples.get(example_id))
        for system in systems
        for group, example_id in chosen[system]
    ]
    sizes = [
        GroupSize(system_name(system), group, _size(queues[system], group), _size(chosen[system], group))
        for system in systems
        for group in GROUPS
        if _size(queues[system], group)
    ]
    return samples, sizes


def group_of(answers: Mapping[str, Answer]) -> str:
    """Which of `GROUPS` a row belongs to, from its answers by model."""
    first, last = answers.get(MODELS[0]), answers.get(MODELS[-1])
    if first is None or last is None or first.strict is None or last.strict is None:
        return "not compared"
    earlier = any(answer.strict for model, answer in answers.items() if model != MODELS[-1])
    if last.strict:
        return "kept" if first.strict else "won"
    return "lost" if earlier else "never right"


def _by_row(answers: Sequence[Answer]) -> dict[tuple[str, str], dict[str, Answer]]:
    rows: dict[tuple[str, str], dict[str, Answer]] = {}
    for answer in answers:
        if answer.system is None:
            continue
        rows.setdefault((answer.system, answer.example_id), {})[answer.model] = answer
    return rows


def _in_turns(rows: Mapping[tuple[str, str], Mapping[str, Answer]], system: str) -> list[tuple[str, str]]:
    """Every row of a system as (group, id), one of each group in turn."""
    own = sorted((example_id for of, example_id in rows if of == system), key=_draw)
    groups: dict[str, list[str]] = {}
    for example_id in own:
        groups.setdefault(group_of(rows[system, example_id]), []).append(example_id)
    columns = [[(group, example_id) for example_id in groups.get(group, [])] for group in GROUPS]
    return [pair for pair in chain.from_iterable(zip_longest(*columns)) if pair is not None]


def _draw(example_id: str) -> str:
    return hashlib.sha256(example_id.encode("utf-8")).hexdigest()


def _shares(available: Mapping[str, int], count: int) -> dict[str, int]:
    """An even share each; what one system cannot fill goes to the others."""
    wanted = dict.fromkeys(available, 0)
    while sum(wanted.values()) < min(count, sum(available.values())):
        poorest = min((s for s in available if wanted[s] < available[s]), key=lambda system: wanted[system])
        wanted[poorest] += 1
    return wanted


def _size(pairs: Sequence[tuple[str, str]], group: str) -> int:
    return sum(of == group for of, _ in pairs)


def _sample(system: str, group: str, answers: Mapping[str, Answer], example: Example | None) -> Sample:
    return Sample(
        system=system_name(system),
        group=group,
        question=example.asked if example else next(iter(answers.values())).example_id,
        reference=_right(example) if example else None,
        answers=tuple((model, answers[model]) for model in MODELS if model in answers),
    )


def _right(example: Example) -> str:
    """What a right answer says: the references, or the whole answer where there is none."""
    if not example.reference:
        return example.answer
    return example.reference if isinstance(example.reference, str) else " or ".join(example.reference)
