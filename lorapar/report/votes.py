"""The vote, made ready for its section: teachers, their agreement, how they do on gold labels, and rows to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorapar.config import SYSTEMS
from lorapar.records import Example, Label, Vote
from lorapar.report.formats import NOTHING, count_of, number, percent, system_name
from lorapar.report.sources import Facts, Values


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix: its words, what is below them, and how strongly it is tinted (0 to 1)."""

    words: str
    small: str = ""
    tint: float = 0.0


@dataclass(frozen=True)
class Matrix:
    """A table with the same names on both sides, or two sets of names."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class VotedRow:
    """One row with its votes."""

    question: str
    answer: str
    label: str
    known: str | None
    agreement: str
    votes: tuple[str, ...]
    """`teacher: System 1 (97%)`."""


def votes_section(facts: Facts) -> dict[str, Any] | None:
    """Teachers, agreement, gold statistics and rows to look at; None before the vote was counted."""
    if facts.voting is None:
        return None
    limit = facts.config.report.votes if facts.config else 20
    gold = facts.voting.get("gold") or {}
    systems = systems_voted(facts.voting)
    return {
        "facts": vote_facts(facts.voting),
        "same_model": same_model_notice(facts),
        "failed": failed_notice(facts.voting),
        "calibration": calibration_rows(facts.voting),
        "changed": (facts.voting.get("without_calibration") or {}).get("changed_rows"),
        "teachers": teacher_rows(facts),
        "agreement": agreement_matrix(facts.voting),
        "confusion": confusion_matrix(gold.get("confusion")),
        "shown": [(system_name(system), shown_rows(facts, system, limit)) for system in systems],
        "contested": contested_rows(facts, limit),
    }


def agreement_matrix(voting: Values) -> Matrix | None:
    """Raw agreement of each two teachers of the first round, Cohen's kappa below it; None for a single teacher."""
    agreement = voting.get("agreement") or {}
    names = tuple(agreement.get("teachers") or ())
    if len(names) < 2:
        return None
    cells = tuple(
        tuple(
            _own_cell()
            if row == column
            else _agreement_cell(agreement["raw"][row][column], agreement["kappa"][row][column])
            for column in range(len(names))
        )
        for row in range(len(names))
    )
    return Matrix(names, names, cells)


def _own_cell() -> Cell:
    return Cell(NOTHING)


def _agreement_cell(raw: float | None, kappa: float | None) -> Cell:
    small = f"κ {kappa:.2f}".replace("-", "−") if kappa is not None else ""  # noqa: RUF001
    return Cell(percent(raw), small, raw or 0.0)


def confusion_matrix(table: Mapping[str, Mapping[str, int]] | None) -> Matrix | None:
    """Known system (rows) against the label given (columns), as counts and shares of the row; None without gold."""
    if not table:
        return None
    systems = _systems_in(table)
    given = [*systems, *(["held_out"] if any("held_out" in row for row in table.values()) else [])]
    rows = [system for system in systems if system in table]
    return Matrix(
        tuple(map(system_name, rows)),
        tuple(system_name(None if label == "held_out" else label) for label in given),
        tuple(_confusion_row(table[gold], given) for gold in rows),
    )


def systems_voted(voting: Values) -> tuple[str, ...]:
    """The systems that the vote chose between, in their order."""
    return tuple(voting.get("train_rows") or SYSTEMS)


def _systems_in(table: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    names = {*table, *(given for row in table.values() for given in row if given != "held_out")}
    return SYSTEMS if names <= set(SYSTEMS) else tuple(sorted(names))


def _confusion_row(row: Mapping[str, int], given: Sequence[str]) -> tuple[Cell, ...]:
    total = sum(row.values()) or 1
    counts = [row.get(label, 0) for label in given]
    return tuple(Cell(number(count), percent(count / total, 0), count / total) for count in counts)


def teacher_rows(facts: Facts) -> list[dict[str, Any]]:
    """One line a teacher: who it is, how often it was asked, what it said and how it fared against known systems."""
    rows = []
    for name, about in ((facts.voting or {}).get("teachers") or {}).items():
        share = about.get("system1_share")
        rows.append(
            {
                "name": name,
                "model": about.get("model") or NOTHING,
                "backend": " at ".join(filter(None, (about.get("backend"), about.get("endpoint")))),
                "is_base": bool(about.get("teacher_is_base")),
                "role_play": {True: "yes", False: "no"}.get(about.get("role_play"), NOTHING),
                "words": " / ".join(str(word).strip() for word in (about.get("label_words") or {}).values()),
                "round": about.get("round") or NOTHING,
                "weight": number(about.get("weight")),
                "calls": number(about.get("calls")),
                "tokens": number(about.get("tokens")),
                "share": share,
                "share_words": percent(share),
                "shares": _shares_text(about),
                "accuracy": percent(about.get("gold_accuracy")),
                "template": about.get("template") or "",
                "confusion": confusion_matrix(about.get("gold_confusion")),
            }
        )
    return rows


def _shares_text(about: Values) -> str | None:
    """Of named systems, how often a teacher said what: `recall 40.0%, arithmetic 60.0%`; None for the two."""
    shares = about.get("shares")
    return None if shares is None else ", ".join(f"{system} {percent(share)}" for system, share in shares.items())


def vote_facts(voting: Values) -> list[tuple[str, str, str]]:
    """(name, figure, what it means), the single metrics of the vote."""
    rows = voting.get("rows") or {}
    gold = voting.get("gold") or {}
    alpha, first = voting.get("krippendorff_alpha"), voting.get("first_round_krippendorff_alpha")
    calls, saved = voting.get("calls") or 0, voting.get("calls_saved") or 0
    everybody, edited = calls + saved, voting.get("edited_rows")
    known = f"share of right labels on {count_of(gold.get('rows', 0), 'row')} whose true system the data names"
    return [
        ("Rows voted on", number(rows.get("voted")), "training rows, and held-out rows the data does not label"),
        *(
            (f"Labelled {system_name(system)}", number(rows.get(system)), _share(rows.get(system), rows.get("voted")))
            for system in systems_voted(voting)
        ),
        (
            "Held out by the rules",
            number(rows.get("held_out")),
            "ties or too little agreement, where the settings say so",
        ),
        ("Krippendorff's alpha", _coefficient(alpha), "1: always agree, 0: no better than chance; over all votes"),
        ("… first round only", _coefficient(first), "not biased by asking the others about open rows only"),
        ("Calls made", number(calls), f"{number(voting.get('tokens'))} tokens read and written"),
        ("Decided early", percent(voting.get("decided_early_share")), "of these rows, without asking everybody"),
        (
            "Calls saved",
            number(saved),
            f"{_share(saved, everybody, 'all calls')}: the outcome was decided without them; "
            f"about {number(voting.get('tokens_saved'))} tokens",
        ),
        *_given(voting.get("given")),
        *([("Set by a person", number(edited), "these labels overrule the vote")] if edited else []),
        *([("Right labels", percent(gold.get("accuracy")), known)] if gold else []),
    ]


def _given(given: Values | None) -> list[tuple[str, str, str]]:
    """Training rows that were labelled without a vote, and by what."""
    if not given:
        return []
    how = "as the data name them" if given["labels"] == "data" else "by chance, as a control"
    rows = ", ".join(f"{number(count)} {system_name(system)}" for system, count in given["rows"].items())
    right = given["gold_accuracy"]
    gold_text = f"; {percent(right)} of those whose system the data names are right" if right is not None else ""
    return [("Labelled without votes", rows, f"training rows, {how} (voting.labels){gold_text}")]


def same_model_notice(facts: Facts) -> str | None:
    """The sentence for teachers that are the base model itself; None where no teacher is."""
    rows = teacher_rows(facts)
    same = [row["name"] for row in rows if row["is_base"]]
    if not same:
        return None
    who = "The teacher" if len(rows) == 1 else "All teachers" if len(same) == len(rows) else "Some teachers"
    be, names = ("is", "") if len(rows) == 1 else ("are", f" ({', '.join(same)})")
    return (
        f"{who}{names} {be} the base model itself, asked in other words. Their agreement shows how much the wording "
        "matters, not that independent judges agree."
    )


def failed_notice(voting: Values) -> str | None:
    """The sentence for teachers that failed; None where none did."""
    failed = voting.get("failed") or {}
    if not failed:
        return None
    reasons = "; ".join(failed.values())
    return f"The vote went on without {', '.join(failed)} (votes cast before the failure count): {reasons}."


def calibration_rows(voting: Values) -> list[tuple[str, str, str]]:
    """(figure, with calibration, without it); empty where votes were not calibrated."""
    plain = voting.get("without_calibration")
    if not plain:
        return []
    rows, gold = voting.get("rows") or {}, voting.get("gold") or {}
    kinds = [(f"Labelled {system_name(system)}", system) for system in systems_voted(voting)]
    kinds.append(("Undecided", "undecided"))
    lines = [(name, number(rows.get(key)), number(plain["rows"].get(key))) for name, key in kinds]
    for name, about in (voting.get("teachers") or {}).items():
        if "shares" in about:
            without = plain["shares"].get(name) or {}
            for system, share in about["shares"].items():
                lines.append((f"{name} said {system}", percent(share), percent(without.get(system))))
            continue
        share = plain["system1_share"].get(name)
        lines.append((f"{name} said System 1", percent(about.get("system1_share")), percent(share)))
    if gold:
        lines.append(("Right labels", percent(gold.get("accuracy")), percent(plain["gold_accuracy"])))
    return lines


def shown_rows(facts: Facts, system: str, limit: int) -> list[VotedRow]:
    """A few rows that got this label, evenly spread over the data, so that sorted data show all their kinds."""
    own = [label.example_id for label in facts.labels or () if label.system == system]
    count = min(limit, len(own))
    return _rows(facts, [own[place * len(own) // count] for place in range(count)])


def contested_rows(facts: Facts, limit: int) -> list[VotedRow]:
    """The rows that teachers disagreed most about."""
    return _rows(facts, ((facts.voting or {}).get("most_contested") or [])[:limit])


def _rows(facts: Facts, ids: Sequence[str]) -> list[VotedRow]:
    wanted = set(ids)
    votes: dict[str, list[Vote]] = {}
    for vote in facts.votes or ():
        if vote.example_id in wanted:
            votes.setdefault(vote.example_id, []).append(vote)
    labels = {label.example_id: label for label in facts.labels or () if label.example_id in wanted}
    return [
        _row(facts.examples[example_id], labels.get(example_id), votes.get(example_id, []))
        for example_id in ids
        if example_id in facts.examples
    ]


def _row(example: Example, label: Label | None, votes: Sequence[Vote]) -> VotedRow:
    return VotedRow(
        question=example.asked,
        answer=example.answer,
        label=system_name(label.system) if label else NOTHING,
        known=system_name(example.known_system) if example.known_system else None,
        agreement=percent(label.agreement, 0) if label else NOTHING,
        votes=tuple(_vote(vote) for vote in votes),
    )


def _vote(vote: Vote) -> str:
    sure = f" ({percent(vote.confidence, 0)})" if vote.confidence is not None else ""
    return f"{vote.teacher}: {system_name(vote.label) if vote.label else 'abstained'}{sure}"


def _share(part: Any, whole: Any, of: str = "them") -> str:
    return f"{percent(part / whole)} of {of}" if part is not None and whole else NOTHING


def _coefficient(value: Any) -> str:
    return f"{value:.3f}".replace("-", "−") if value is not None else NOTHING  # noqa: RUF001
