"""Statistics of a vote for labels/summary.json, computed from counted patterns: shares, calls and agreement.

Agreement is that of voters with each other and with gold labels (Cohen's kappa, Krippendorff's alpha, confusion). Two
notes on reading it. Pairwise agreement uses only the first round: the other teachers were asked about open rows, where
agreement is low by selection. Krippendorff's alpha uses all votes, so early decision lowers it compared with asking
every teacher (`first_round_krippendorff_alpha` avoids this).

The agreement code is lorapar's own, because the available libraries are heavy (scikit-learn) or have another licence
(krippendorff is GPL). It is checked against published examples. A unit is a string with one mark for each voter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.records import System
from lorapar.voting.ballots import ABSENT, NO_VOTE, NOT_ASKED, Ballots
from lorapar.voting.tally import Assigned, Count

Matrix = list[list[float | None]]
Described = Mapping[str, Mapping[str, Any]]
"""What the vote stage wrote about each teacher."""


def cohen_kappa(pairs: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa of two raters from counted pairs of marks; None where agreement by chance is certain.

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

    Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section D. A unit with fewer than two marks does
    not count.
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
    """Raw agreement and kappa of each pair of the teachers at `places`, over the rows both voted on."""
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
    """The share of correct labels in a confusion table among labelled rows; None without any."""
    labelled = sum(count for row in table.values() for given, count in row.items() if given != "held_out")
    return sum(row.get(gold, 0) for gold, row in table.items()) / labelled if labelled else None


def vote_summary(count: Count, assigned: Assigned, round_name: str, described: Described) -> dict[str, Any]:
    """The contents of labels/summary.json; undefined shares and coefficients are None."""
    ballots, patterns = count.ballots, count.counted()
    first = tuple(range(ballots.first_round))
    raw, kappa = pairwise(patterns, first)
    return {
        "round": round_name,
        "teachers": teacher_statistics(count, patterns, described),
        "teacher_is_base": any(about.get("teacher_is_base", False) for about in described.values()),
        "rows": row_statistics(ballots, patterns),
        "edited_rows": len(count.edits),
        **given_statistics(count),
        "train_rows": assigned.of("train"),
        "heldout_rows": assigned.of("heldout"),
        **({"development_rows": rows} if any((rows := assigned.of("development")).values()) else {}),
        "heldout_rows_known": {system: count.known_heldout[system] for system in ballots.systems},
        **call_statistics(ballots, patterns),
        "tokens": sum(count.tokens.values()),
        "tokens_saved": tokens_saved(count, patterns),
        "agreement": {"teachers": [ballots.teachers[place] for place in first], "raw": raw, "kappa": kappa},
        "krippendorff_alpha": krippendorff_alpha(patterns),
        "first_round_krippendorff_alpha": krippendorff_alpha(_first_round(patterns, len(first))),
        "gold": gold_statistics(ballots, count.patterns, count.gold),
        "without_calibration": plain_statistics(count),
        "patterns": dict(sorted(patterns.items())),
        "most_contested": count.contested(),
        "shown": {system: count.shown(system) for system in ballots.systems},
    }


def given_statistics(count: Count) -> dict[str, Any]:
    """Training rows whose labels do not come from votes, by system; empty where there are none."""
    if not count.given:
        return {}
    rows = Counter(count.given.values())
    by_data = [(gold, system) for row, system in count.given.items() if (gold := count.gold[row]) is not None]
    right = sum(gold == system for gold, system in by_data)
    return {
        "given": {
            "labels": count.ballots.given.labels,
            "rows": {system: rows[system] for system in count.ballots.systems},
            "gold_accuracy": right / len(by_data) if by_data else None,
        }
    }


def teacher_statistics(count: Count, patterns: Counter[str], described: Described) -> dict[str, dict[str, Any]]:
    """For each teacher: its round, weight, calls, tokens, shares of its votes, and accuracy against gold labels."""
    golds, system_of = Counter(zip(count.patterns, count.gold, strict=True)), count.ballots.system_of
    found = {}
    for place, name in enumerate(count.ballots.teachers):
        counts = dict.fromkeys(system_of, 0)
        for pattern, rows in patterns.items():
            if pattern[place] in system_of:
                counts[pattern[place]] += rows
        table = confusion(
            (gold, system_of[pattern[place]], rows)
            for (pattern, gold), rows in golds.items()
            if gold is not None and pattern[place] in system_of
        )
        found[name] = {
            **described.get(name, {}),
            "round": "first" if place < count.ballots.first_round else "rest",
            "calls": count.calls[name],
            "tokens": count.tokens[name],
            "abstained": count.abstained[name],
            **_shares(counts, count.ballots),
            "gold_accuracy": accuracy(table),
            "gold_confusion": table,
        }
    return found


def row_statistics(ballots: Ballots, patterns: Counter[str]) -> dict[str, int]:
    """Voted rows (of every split) by result.

    The systems, `held_out` and `undecided` add up to `voted`; the others overlap them.
    """
    counts = dict.fromkeys((*ballots.systems, "held_out", "undecided", "tied", "below_agreement"), 0)
    for pattern, rows in patterns.items():
        outcome = ballots.outcome(pattern)
        counts["undecided" if not outcome.decided else outcome.system or "held_out"] += rows
        counts["tied"] += rows * outcome.tied
        counts["below_agreement"] += rows * (outcome.decided and outcome.below_agreement)
    unvoted = sum(rows for pattern, rows in patterns.items() if set(pattern) == {ABSENT})
    return {"voted": sum(patterns.values()), **counts, "without_votes": unvoted}


def call_statistics(ballots: Ballots, patterns: Counter[str]) -> dict[str, Any]:
    """Votes cast, votes that early decision has saved so far, and the share of rows decided without all teachers."""
    calls = saved = early = 0
    for pattern, rows in patterns.items():
        unasked = pattern.count(NOT_ASKED)
        calls += rows * sum(mark not in NO_VOTE for mark in pattern)
        if unasked and ballots.outcome(pattern).decided:
            saved += rows * unasked
            early += rows
    total = sum(patterns.values())
    return {"calls": calls, "calls_saved": saved, "decided_early_share": early / total if total else None}


def tokens_saved(count: Count, patterns: Counter[str]) -> int:
    """An estimate of the tokens that saved calls would have taken: for each teacher its mean over the votes it cast, or
    the mean of all votes where it cast none.
    """
    calls, tokens = sum(count.calls.values()), sum(count.tokens.values())
    saved = 0.0
    for place, name in enumerate(count.ballots.teachers):
        unasked = sum(
            rows
            for pattern, rows in patterns.items()
            if pattern[place] == NOT_ASKED and count.ballots.outcome(pattern).decided
        )
        if calls:
            own = count.tokens[name] / count.calls[name] if count.calls[name] else tokens / calls
            saved += unasked * own
    return round(saved)


def gold_statistics(ballots: Ballots, patterns: Sequence[str], golds: Sequence[System | None]) -> dict[str, Any] | None:
    """The vote against the systems that the data name; None where they name none. Accuracy ignores held-out rows."""
    outcomes = {pattern: ballots.outcome(pattern) for pattern in set(patterns)}
    table = confusion(
        (gold, outcomes[pattern].system or "held_out", rows)
        for (pattern, gold), rows in Counter(zip(patterns, golds, strict=True)).items()
        if gold is not None and outcomes[pattern].decided
    )
    if not table:
        return None
    rows = sum(sum(row.values()) for row in table.values())
    return {"rows": rows, "accuracy": accuracy(table), "confusion": table}


def plain_statistics(count: Count) -> dict[str, Any] | None:
    """The result of the vote without calibration; None where there was none.

    Rows that were decided early with calibration may be undecided without it, because no further teacher was asked.
    """
    if count.plain_patterns is None:
        return None
    outcome = count.ballots.outcome
    plain_patterns = [pattern for row, pattern in enumerate(count.plain_patterns) if row not in count.given]
    pairs = Counter(zip(count.patterns, count.plain_patterns, strict=True))
    ends = {(own, plain): (outcome(own), outcome(plain)) for own, plain in pairs}
    changed = sum(
        rows for key, rows in pairs.items() if ends[key][1].decided and ends[key][0].system != ends[key][1].system
    )
    gold = gold_statistics(count.ballots, count.plain_patterns, count.gold)
    return {
        "rows": row_statistics(count.ballots, Counter(plain_patterns)),
        "changed_rows": changed,
        "gold_accuracy": gold["accuracy"] if gold else None,
        **_plain_shares(count.plain_patterns, count.ballots),
    }


def shares_of(teacher: Mapping[str, Any]) -> dict[str, float | None]:
    """The share of a teacher's votes by system, from its entry in a summary; with two systems, only the first's."""
    return dict(teacher["shares"]) if "shares" in teacher else {SYSTEMS[0]: teacher.get("system1_share")}


def _share_key(systems: Sequence[System]) -> str:
    """The key of a teacher's shares: with two systems, the share of the first says everything."""
    return "system1_share" if tuple(systems) == SYSTEMS else "shares"


def _shares(counts: Mapping[str, int], ballots: Ballots) -> dict[str, Any]:
    """A teacher's shares, from its votes by mark: the share of System 1, or one for each named system."""
    votes = sum(counts.get(mark, 0) for mark in ballots.system_of)
    shares = {system: counts.get(mark, 0) / votes if votes else None for mark, system in ballots.system_of.items()}
    key = _share_key(ballots.systems)
    return {key: shares if key == "shares" else shares[SYSTEMS[0]]}


def _plain_shares(patterns: Sequence[str], ballots: Ballots) -> dict[str, Any]:
    """The same for each teacher, without calibration."""
    key = _share_key(ballots.systems)
    marks = (Counter(pattern[place] for pattern in patterns) for place in range(len(ballots.teachers)))
    return {key: {name: _shares(marked, ballots)[key] for name, marked in zip(ballots.teachers, marks, strict=True)}}


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The flat metrics that a run shows; undefined ones are left out."""
    values = {
        **{f"{system}_rows": rows for system, rows in summary["train_rows"].items()},
        "held_out_rows": summary["rows"]["held_out"],
        "undecided_rows": summary["rows"]["undecided"],
        "decided_early_share": summary["decided_early_share"],
        "calls": summary["calls"],
        "calls_saved": summary["calls_saved"],
        "tokens": summary["tokens"],
        "tokens_saved": summary["tokens_saved"],
        "edited_rows": summary["edited_rows"],
        **({"given_rows": sum(summary["given"]["rows"].values())} if "given" in summary else {}),
        "abstained_votes": sum(teacher["abstained"] for teacher in summary["teachers"].values()),
        "krippendorff_alpha": summary["krippendorff_alpha"],
        "vote_accuracy": summary["gold"]["accuracy"] if summary["gold"] else None,
    }
    for name, teacher in summary["teachers"].items():
        values |= {f"{system}_share_{name}": share for system, share in shares_of(teacher).items()}
        values[f"accuracy_{name}"] = teacher["gold_accuracy"]
    values |= _pairs(summary["agreement"])
    return {name: float(value) for name, value in values.items() if value is not None}


def _pairs(agreement: Mapping[str, Any]) -> dict[str, float | None]:
    """Raw agreement and kappa of each pair of teachers in the first round."""
    names, found = agreement["teachers"], {}
    for row, column in combinations(range(len(names)), 2):
        pair = f"{names[row]}_{names[column]}"
        found[f"agreement_{pair}"] = agreement["raw"][row][column]
        found[f"kappa_{pair}"] = agreement["kappa"][row][column]
    return found


def _first_round(patterns: Counter[str], teachers: int) -> Counter[str]:
    cut: Counter[str] = Counter()
    for pattern, rows in patterns.items():
        cut[pattern[:teachers]] += rows
    return cut
