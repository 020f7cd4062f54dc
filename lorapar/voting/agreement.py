"""How far voters agree with each other and with gold labels: Cohen's kappa, Krippendorff's alpha, confusion.

Own code, because the libraries at hand are heavy (scikit-learn) or under another licence (krippendorff is GPL); checked
against published examples. All functions take counted patterns: a unit is one string with one mark a voter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lorapar.voting.ballots import NO_VOTE

Matrix = list[list[float | None]]


def cohen_kappa(pairs: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa of two raters from counted pairs of marks; None where chance alone would make them agree.

    Cohen (1960), A coefficient of agreement for nominal scales.
    """
    rows = sum(pairs.values())
    if not rows:
        return None
    left: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for (one, other), count in pairs.items():
        left[one] += count
        right[other] += count
    observed = sum(count for (one, other), count in pairs.items() if one == other) / rows
    expected = sum(left[mark] * right[mark] for mark in left) / rows**2
    return (observed - expected) / (1.0 - expected) if expected < 1.0 else None


def krippendorff_alpha(units: Mapping[str, int], missing: str = NO_VOTE) -> float | None:
    """Krippendorff's alpha for nominal marks with missing ones, from counted units; None where all marks are equal.

    Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section D. A unit with fewer than two marks counts
    for nothing.
    """
    totals: Counter[str] = Counter()
    disagreeing = 0.0
    for unit, count in units.items():
        marks = Counter(mark for mark in unit if mark not in missing)
        number = sum(marks.values())
        if number < 2:
            continue
        disagreeing += count * sum(own * (number - own) for own in marks.values()) / (number - 1)
        for mark, own in marks.items():
            totals[mark] += count * own
    number = sum(totals.values())
    expected = sum(own * (number - own) for own in totals.values())
    return 1.0 - (number - 1) * disagreeing / expected if expected else None


def pairwise(patterns: Mapping[str, int], places: Sequence[int]) -> tuple[Matrix, Matrix]:
    """Raw agreement and kappa of each two of the teachers at `places`, over the rows both voted on."""
    raw: Matrix = [[None] * len(places) for _ in places]
    kappa: Matrix = [[None] * len(places) for _ in places]
    for row, one in enumerate(places):
        for column, other in enumerate(places):
            pairs: Counter[tuple[str, str]] = Counter()
            for pattern, count in patterns.items():
                if pattern[one] not in NO_VOTE and pattern[other] not in NO_VOTE:
                    pairs[pattern[one], pattern[other]] += count
            rows = sum(pairs.values())
            raw[row][column] = sum(n for (a, b), n in pairs.items() if a == b) / rows if rows else None
            kappa[row][column] = cohen_kappa(pairs)
    return raw, kappa


def confusion(pairs: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Counts by gold label, then by the label given, from (gold, given, count)."""
    table: dict[str, dict[str, int]] = {}
    for gold, given, count in pairs:
        row = table.setdefault(gold, {})
        row[given] = row.get(given, 0) + count
    return {gold: dict(sorted(row.items())) for gold, row in sorted(table.items())}


def accuracy(table: Mapping[str, Mapping[str, int]]) -> float | None:
    """Share of right labels in a confusion table among those that were given one; None without any."""
    labelled = sum(count for row in table.values() for given, count in row.items() if given != "held_out")
    return sum(row.get(gold, 0) for gold, row in table.items()) / labelled if labelled else None
