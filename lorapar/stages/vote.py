"""vote: ask the teachers of a round which system each row needs; what was asked before a stop is not asked again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lorapar.config import SYSTEMS, ModelConfig, TeacherConfig, VotingConfig
from lorapar.errors import BadInputError, nearest
from lorapar.records import Example, read_records, write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.voting.backends import Backends, is_base
from lorapar.voting.ballots import Ballots, is_voted_on
from lorapar.voting.collect import EXAMPLES, SUMMARY, VOTES, Collection, VoteJournal, copy_in_order
from lorapar.voting.teacher import Teacher, plays_role, target_text, teacher_model, template_digest
from lorapar.voting.teacher_pool import PROBE, TeacherPool, VoteCache, probe_rows, teacher_identity


class Settings(StageSettings):
    """The voters and whose part they play."""

    model: ModelConfig
    teachers: tuple[TeacherConfig, ...]
    voting: VotingConfig
    system_names: tuple[str, ...] = SYSTEMS
    round: Literal["first", "rest"]
    asked: tuple[str, ...] | None = None
    """Only these of the round's teachers, in this call: a pipeline shares a round out; absent: all of them."""


SPEC = StageSpec(
    name="vote",
    summary="ask the teachers of a round which system each row needs",
    settings=Settings,
    inputs=("examples",),
    outputs=("votes",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write votes.jsonl, summary.json (what each teacher of the round is) and, for a calibrated vote, probe.jsonl."""
    settings, out = call.settings, call.output("votes")
    ballots = Ballots(settings.teachers, settings.voting, settings.system_names)
    journal = VoteJournal(call.scratch / VOTES, on_flush=call.keeper.tick)
    names = _asked(settings, ballots)
    collection = Collection(call.input("examples"), ballots, settings.round, names)
    _check_labels(call)
    probe = _probe(call)
    with ExitStack() as stack:
        pool = TeacherPool(_opener(call, stack), _cache(call, stack), probe)
        done = collection.ask(pool, journal, call.progress)
    if done.resumed:
        call.progress.log(f"{done.resumed} votes of an earlier call were kept")
    tokens = copy_in_order(journal.path, out / VOTES, ballots.teachers, collection.patterns)
    if probe is not None:
        write_records(out / PROBE, probe)
    teachers = {teacher.name: teacher for teacher in settings.teachers}
    described = {name: _describe(teachers[name], settings, name in collection.failed) for name in names}
    votes = sum(done.calls.values()) + sum(done.cached.values())
    about = {"round": settings.round, "votes": votes, "tokens": tokens, "teachers": described}
    write_json(out / SUMMARY, {**about, "failed": collection.failed})
    return {
        "rows": float(len(collection.patterns)),
        "calls": float(sum(done.calls.values())),
        "cached_votes": float(sum(done.cached.values())),
        "tokens": float(sum(done.tokens.values())),
        "abstained_votes": float(sum(done.abstained.values())),
        "failed_teachers": float(len(collection.failed)),
        "thinking_tokens": float(done.thinking_tokens),
    }


def _check_labels(call: StageCall[Settings]) -> None:
    """Raise BadInputError before anybody is asked where the data shall give labels and give none."""
    if call.settings.voting.labels != "data" or call.settings.round == "rest":
        return
    rows = read_records(call.input("examples") / EXAMPLES, Example)
    if not any(row.split == "train" and row.known_system for row in rows):
        raise BadInputError(
            "voting.labels is data, and no training row names its system; name the column in data.columns.system, or "
            "set voting.labels to votes"
        )


def _asked(settings: Settings, ballots: Ballots) -> tuple[str, ...]:
    """The teachers of this call, in the order of the round; raises BadInputError for one who is not of the round."""
    names = ballots.round_teachers(settings.round)
    if settings.asked is None:
        return names
    for name in settings.asked:
        if name not in names:
            raise BadInputError(
                f"asked: '{name}' is no teacher of the round {settings.round}{nearest(name, list(names))}; "
                f"it has: {', '.join(names) or 'none'}"
            )
    return tuple(name for name in names if name in settings.asked)


def _opener(call: StageCall[Settings], stack: ExitStack) -> Callable[[str], Teacher]:
    settings = call.settings
    teachers = {teacher.name: teacher for teacher in settings.teachers}
    backends = stack.enter_context(
        Backends(settings.model, role_play=settings.voting.role_play, progress=call.progress)
    )
    return lambda name: backends.open(teachers[name])


def _cache(call: StageCall[Settings], stack: ExitStack) -> VoteCache | None:
    """What was voted in earlier runs; None where there is neither a folder nor a store to remember it in."""
    if call.cache is None and call.store is None:
        return None
    # Not in the scratch folder: what is there is copied to the store, and the store has these votes already.
    folder = call.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorapar-votes-")))
    settings = call.settings
    identify = partial(teacher_identity, base=settings.model, role_play=settings.voting.role_play)
    votes = VoteCache(folder / "votes.sqlite", settings.teachers, identify, call.store, anew=call.anew)
    return stack.enter_context(votes)


def _probe(call: StageCall[Settings]) -> list[Example] | None:
    """The rows that teachers' biases are measured on; the second round has those of the first."""
    if not call.settings.voting.calibrate:
        return None
    folder = call.input("examples")
    if call.settings.round == "rest":
        return list(read_records(folder / PROBE, Example))
    rows = (row for row in read_records(folder / EXAMPLES, Example) if is_voted_on(row, call.settings.voting.labels))
    return probe_rows(rows, call.settings.voting.probe_rows)


def _describe(teacher: TeacherConfig, settings: Settings, failed: bool) -> dict[str, Any]:
    """Who a teacher is; `tally` passes it on into its summary."""
    model, role_play = teacher_model(teacher, settings.model), settings.voting.role_play
    return {
        "backend": teacher.backend,
        "endpoint": teacher.endpoint,
        "model": model.name,
        "revision": model.revision,
        "dtype": None if teacher.backend == "openai" else model.dtype,
        "weight": teacher.weight,
        "teacher_is_base": not failed and is_base(teacher, settings.model),
        "role_play": plays_role(teacher.template, role_play),
        "label_words": dict(teacher.template.label_words),
        "template": template_digest(teacher.template, target_text(settings.model), role_play),
    }
