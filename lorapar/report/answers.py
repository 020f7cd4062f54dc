"""Answers before and after, side by side, chosen by a rule and not by hand: losses are shown as readily as wins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.records import Answer, Example
from lorapar.report.formats import MODELS, system_name
from lorapar.report.sources import Facts

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
