"""tally: turn votes into labels, and assign the rows to their systems. Needs no model and no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from lorapar.config import SYSTEMS, EditsConfig, GateConfig, TeacherConfig, VotingConfig
from lorapar.config.base import unless_default
from lorapar.errors import BadInputError
from lorapar.progress import log_omissions
from lorapar.records import OMISSIONS, Example, Omission, omissions_of, read_json, read_records, write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.voting.ballots import Ballots
from lorapar.voting.collect import EXAMPLES, FAILED, SUMMARY, VOTES, abstained
from lorapar.voting.statistics import metrics_of, shares_of, vote_summary
from lorapar.voting.tally import Count, assign, assign_open_votes, load_edits, system_of
from lorapar.voting.teacher_pool import PROBE


class Settings(StageSettings):
    """How votes become labels. After the round `first` rows may stay undecided, after `rest` none may."""

    teachers: tuple[TeacherConfig, ...]
    voting: VotingConfig
    system_names: tuple[str, ...] = SYSTEMS
    edits: EditsConfig | None = None
    gate: GateConfig | None = None
    """Of it only the measures: they decide which held-out rows there must be."""
    round: Literal["first", "rest"]
    seed: int | None = None
    """Seed of labels by chance; None: none are."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "seed")

    @model_validator(mode="before")
    @classmethod
    def _first_round_is_not_edited(cls, values: Any) -> Any:
        """A person's labels come last: an edit re-runs the last tally and nothing before it."""
        return {**values, "edits": None} if isinstance(values, dict) and values.get("round") == "first" else values

    @model_validator(mode="after")
    def _only_measures_of_the_last_round(self) -> Settings:
        """Any other setting of the gate re-runs no tally."""
        gate = GateConfig(measures=self.gate.measures) if self.gate is not None and self.round == "rest" else None
        object.__setattr__(self, "gate", gate)
        return self


SPEC = StageSpec(
    name="tally",
    summary="turn votes into labels and assign the rows to their systems",
    settings=Settings,
    inputs=("examples",),
    many=("votes",),
    outputs=("labels", "undecided", "system1", "system2", "heldout"),
    image="client",
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write labels, rows by system, held-out rows by system, and what is still open with its votes so far."""
    settings, folders = call.settings, call.inputs["votes"]
    examples, votes = call.input("examples") / EXAMPLES, [folder / VOTES for folder in folders]
    count = Count(Ballots(settings.teachers, settings.voting, settings.system_names, seed=settings.seed or 0))
    count.read_examples(examples)
    count.read_votes(votes)
    failed = _failed(folders)
    _check_enough(count.ballots, failed)
    count.excuse(failed)
    count.check_complete(settings.round)
    if settings.edits is not None and settings.edits.source is not None:
        count.edit(load_edits(settings.edits, settings.system_names), settings.edits.source)
    assigned = assign(count, examples, call.outputs)
    if settings.round == "first":
        _hand_on(count, folders, failed, call.output("undecided"))
    summary = {**vote_summary(count, assigned, settings.round, _described(folders)), "failed": failed}
    omissions = _omissions(summary, count)
    summary[OMISSIONS] = omissions_of(*omissions)
    log_omissions(call.progress, omissions)
    write_json(call.output("labels") / SUMMARY, summary)
    if settings.round == "rest":
        _check_every_system(summary)
        if settings.gate is not None and call.judged:
            _check_heldout(settings.gate.measures, call.output("heldout"), settings.system_names)
            if few := _too_few_to_tell(settings.gate.measures, call.output("heldout"), settings.system_names):
                call.progress.log(few)
    return metrics_of(summary)


def _omissions(summary: Mapping[str, Any], count: Count) -> list[Omission]:
    """Rows that go to no system, by rule or by a person's edit; of the first round nothing is said yet."""
    if summary["round"] == "first":
        return []
    rows = summary["rows"]
    edited = sum(system_of(edit) is None for edit in count.edits.values())
    calls = {name: count.calls[name] + number for name, number in count.abstained.items()}
    return [
        *(abstained(name, number, calls[name]) for name, number in count.abstained.items()),
        Omission(
            count=rows["without_votes"],
            total=rows["voted"],
            what="rows left out of both systems",
            why="every teacher that was asked about them abstained or failed",
            remedy="let another teacher vote",
        ),
        Omission(
            count=rows["held_out"] - rows["without_votes"],
            total=rows["voted"],
            what="rows left out of both systems",
            why="their votes are tied or agree too little",
            remedy="voting.tie, voting.min_agreement and voting.below_agreement say what becomes of them",
        ),
        Omission(
            count=edited,
            total=rows["voted"],
            what="rows left out of both systems",
            why="the edits hold them out",
            remedy="change them in edits.source",
        ),
    ]


def _hand_on(count: Count, folders: tuple[Path, ...], failed: Mapping[str, str], undecided: Path) -> None:
    """Give the next round what it needs besides the open rows: their votes, who failed, and the probe rows."""
    assign_open_votes(count, [folder / VOTES for folder in folders], undecided)
    if failed:
        write_json(undecided / FAILED, dict(failed))
    for folder in folders:
        if (folder / PROBE).exists():
            shutil.copyfile(folder / PROBE, undecided / PROBE)


def _failed(folders: tuple[Path, ...]) -> dict[str, str]:
    """Why each teacher failed that did."""
    return {name: why for folder in folders for name, why in read_json(folder / SUMMARY).get("failed", {}).items()}


def _check_enough(ballots: Ballots, failed: Mapping[str, str]) -> None:
    """Where calls of the vote stage shared a round out, each allowed for its own failure only."""
    if len(failed) > ballots.may_fail:
        least = len(ballots.teachers) - ballots.may_fail
        raise BadInputError(
            f"{len(failed)} of {len(ballots.teachers)} teachers failed, and {least} are needed (voting.min_teachers): "
            + "; ".join(failed.values())
        )


def _described(folders: tuple[Path, ...]) -> dict[str, Any]:
    """What the vote stage wrote about each teacher."""
    return {name: about for folder in folders for name, about in read_json(folder / SUMMARY)["teachers"].items()}


def _check_every_system(summary: Mapping[str, Any]) -> None:
    rows: dict[str, int] = summary["train_rows"]
    empty = [system for system, number in rows.items() if not number]
    if not empty:
        return
    other = "".join(f"{number} went to {system}, " for system, number in rows.items() if number)
    shares = ", ".join(
        f"'{name}' said {system} on {share:.0%} of its rows"
        for name, teacher in summary["teachers"].items()
        for system, share in shares_of(teacher).items()
        if share is not None
    )
    if "given" in summary:
        how = "by chance" if summary["given"]["labels"] == "random" else "as the data name them"
        raise BadInputError(
            f"no training row is of {' or '.join(empty)}: voting.labels assigns them {how}; give the run more data"
        )
    kinds = "both kinds" if len(rows) == len(SYSTEMS) else "every kind"
    raise BadInputError(
        f"the vote gave no training row to {' or '.join(empty)}: {other}{summary['rows']['held_out']} were held out "
        f"({shares or 'there were no votes'}); "
        f"give the run other teachers or another template, or more data of {kinds}"
    )


def _check_heldout(measures: Sequence[str], heldout: Path, systems: Sequence[str]) -> None:
    """Refuse now what the gate would refuse after all training: a measure without a row that can be judged."""
    for system in systems:
        lack = _lack(system, heldout / f"{system}.jsonl") if system in measures else None
        if lack is not None:
            others = [measure for measure in measures if measure != system]
            instead = f", or set gate.measures=[{', '.join(others)}]" if others else ""
            raise BadInputError(
                f"gate.measures names {system}, but {lack}, so the gate could not judge what was trained; "
                f"raise data.heldout{instead}"
            )


_CONFIDENCE = 0.95
"""The gate's, by default; how sure a gate wants to be does not make this stage another one."""


def _too_few_to_tell(measures: Sequence[str], heldout: Path, systems: Sequence[str]) -> str:
    """What is said where the held-out rows of the measures are so few; nothing where a benchmark's rows count too."""
    if not set(measures) <= set(systems):
        return ""
    return too_few_to_tell(
        sum(row.reference is not None for one in measures for row in read_records(heldout / f"{one}.jsonl", Example))
    )


def too_few_to_tell(rows: int, confidence: float | None = None) -> str:
    """What is said of so few held-out rows that even a candidate which wins every one is not better for sure.

    `confidence` is the gate's, where it is known.
    """
    best = 2.0 ** (1 - rows)
    if best < 1 - (confidence or _CONFIDENCE):
        return ""
    asked = f"{_CONFIDENCE:g}, its default" if confidence is None else f"{confidence:g}"
    return (
        f"WARNING: only {rows} held-out rows can be judged: even if the candidate wins every one of them, the gate's "
        f"test says p = {best:.2g}, so nothing would be found better at gate.confidence {asked}; "
        "raise data.heldout (of the task mix: data.task_mix)"
    )


def _lack(system: str, file: Path) -> str | None:
    """Why no held-out row of a system can be judged; None where one can."""
    rows = 0
    for row in read_records(file, Example):
        if row.reference is not None:
            return None
        rows += 1
    return (
        f"none of the {rows:,} held-out rows of {system} has a reference answer" if rows else "no held-out row is of it"
    )
