"""vote: ask the teachers of a round which system each row needs; what was asked before a stop is not asked again."""

from __future__ import annotations

import shutil
from typing import Any, Literal

from lorapar.config import ModelConfig, TeacherConfig, VotingConfig
from lorapar.records import write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.voting.backends import Backends, is_base
from lorapar.voting.ballots import Ballots
from lorapar.voting.collect import VOTES, Collection
from lorapar.voting.journal import VoteJournal
from lorapar.voting.teacher import teacher_model
from lorapar.voting.templates import plays_role, target_text, template_digest


class Settings(StageSettings):
    """The voters and whose part they play."""

    model: ModelConfig
    teachers: tuple[TeacherConfig, ...]
    voting: VotingConfig
    round: Literal["first", "rest"]


SPEC = StageSpec(
    name="vote",
    summary="ask the teachers of a round which system each row needs",
    settings=Settings,
    inputs=("examples",),
    outputs=("votes",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write votes.jsonl and summary.json (what each teacher of the round is, and what it was asked)."""
    settings, out = call.settings, call.output("votes")
    ballots = Ballots(settings.teachers, settings.voting)
    teachers = {teacher.name: teacher for teacher in settings.teachers}
    backends = Backends(settings.model, role_play=settings.voting.role_play, progress=call.progress)
    journal = VoteJournal(call.scratch / VOTES, on_flush=call.keeper.tick)
    collection = Collection(call.input("examples"), ballots, settings.round)
    done = collection.ask(lambda name: backends.open(teachers[name]), journal, call.progress)
    if done.resumed:
        call.progress.say(f"{done.resumed} votes of an earlier call were kept")
    shutil.copyfile(journal.path, out / VOTES)
    names = ballots.round_teachers(settings.round)
    described = {name: _describe(teachers[name], settings) for name in names}
    calls, tokens = sum(done.calls.values()), sum(done.tokens.values())
    write_json(
        out / "summary.json",
        {"round": settings.round, "calls": calls, "tokens": tokens, "teachers": described},
    )
    return {"rows": float(len(collection.patterns)), "calls": float(calls), "tokens": float(tokens)}


def _describe(teacher: TeacherConfig, settings: Settings) -> dict[str, Any]:
    """Who a teacher is; `tally` passes it on into its summary."""
    model, role_play = teacher_model(teacher, settings.model), settings.voting.role_play
    return {
        "backend": teacher.backend,
        "model": model.name,
        "revision": model.revision,
        "dtype": model.dtype,
        "weight": teacher.weight,
        "teacher_is_base": is_base(teacher, settings.model),
        "role_play": plays_role(teacher.template, role_play),
        "label_words": dict(teacher.template.label_words),
        "template": template_digest(teacher.template, target_text(settings.model), role_play),
    }
