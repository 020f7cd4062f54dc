"""Which systems a run tells apart: the section `systems`, two as in the paper or any others by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from lorapar.config.base import SYSTEMS, Fraction, Section
from lorapar.config.model import PromptConfig
from lorapar.config.training import DEFAULT_PHASES, PhaseConfig
from lorapar.config.voting import TeacherConfig, TeacherTemplate
from lorapar.errors import nearest

if TYPE_CHECKING:
    from lorapar.config.run import RunConfig

MOST_SYSTEMS = 9
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = frozenset(
    (
        *("all", "base", "both", "config", "first", "gate", "hold_out", "held_out", "job", "none", "rest", "rl", "sft"),
        *(
            "answer",
            "benchmarks",
            "below_agreement",
            "labels",
            "question",
            "shared",
            "target",
            "tied",
            "tools",
            "system",
        ),
        *("undecided", "unused", "voted", "without_votes", "scores", "gradient", "magnitude"),
    )
)
"""Words that settings, files and figures have beside the names of systems."""


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"'{text}' is no system name: a small letter, then small letters, digits and _, at most 32")
    if text in _TAKEN:
        raise ValueError(f"'{text}' means something else in settings and metrics; choose another name")
    return text


class SystemConfig(Section):
    """One of the systems: a kind of rows that has its own part of the adapter."""

    name: Annotated[str, AfterValidator(_name)] = Field(description="Name in labels, phases, metrics and gate.measures")
    description: str = Field(
        "",
        description="When a row belongs to it, as teachers read it: the words after `if`, such as `it asks for a fact`",
    )
    word: str | None = Field(None, description="The word that teachers answer with; absent: the name")
    message: str | None = Field(None, description="System message of its rows; absent: none")
    steps: bool = Field(
        False,
        description="Ask its rows for steps and an answer in tags, as those of System 2, instead of `message`",
    )
    shared: Fraction = Field(1.0, description="Share of the shared elements that its phases may train")


DEFAULT_SYSTEMS = (
    SystemConfig(name="system1", description="it can be answered at once by recall or one simple inference"),
    SystemConfig(name="system2", description="it needs several chained steps", steps=True),
)


def checked(systems: tuple[SystemConfig, ...]) -> tuple[SystemConfig, ...]:
    """The systems as they are; ValueError where there are too few or too many, or two that are not told apart."""
    names = [system.name for system in systems]
    if not 2 <= len(names) <= MOST_SYSTEMS:
        raise ValueError(f"a run has 2 to {MOST_SYSTEMS} systems, and {len(names)} are named")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the name '{twice[0]}' is used twice; names of systems must differ")
    if tuple(names) == SYSTEMS and systems != DEFAULT_SYSTEMS:
        raise ValueError(
            "system1 and system2 alone have settings of their own (teachers[].template, prompts, partition.alpha and "
            "beta); leave `systems` out, or give other names"
        )
    for system in systems if systems != DEFAULT_SYSTEMS else ():
        if system.steps and system.message is not None:
            raise ValueError(f"{system.name}: steps and message both say how its rows are asked; give one of the two")
    return systems


Systems = Annotated[tuple[SystemConfig, ...], AfterValidator(checked)]


def instruction_of(systems: Sequence[SystemConfig], *, role_play: bool) -> str:
    """What teachers are told where their template does not say it: each system's label word and when it is right."""
    kinds = "; ".join(f"{{{system.name}}} if {system.description}" for system in systems)
    if role_play:
        return f"You judge examples for training {{target}}. Answer as {{target}} would experience them: {kinds}."
    return f"You judge examples for training a language model. Answer {kinds}."


def slot_of(names: Sequence[str], system: str) -> tuple[str, str]:
    """Where the graph carries a system's rows: the output of `tally`, and the file in it.

    The graph has one place for the first system and one for all others, so that it is the same for any number: in the
    second place the second system's rows are in `examples.jsonl`, as of two systems, and the others' beside it.
    """
    place = tuple(names).index(system)
    return SYSTEMS[min(place, 1)], "examples.jsonl" if place < 2 else f"{system}.jsonl"


def slot_systems(names: Sequence[str], slot: str) -> tuple[str, ...]:
    """The systems that one of the graph's two places carries."""
    return tuple(names[:1] if slot == SYSTEMS[0] else names[1:])


def filled_in(config: RunConfig) -> dict[str, Any]:
    """Sections of a run with named systems, with what they leave open: asking the same again changes nothing.

    Raises ValueError for what named systems exclude.
    """
    _check_left_alone(config)
    names = config.system_names
    gate, voting = config.gate, config.voting
    judges = {
        name: one.model_copy(update={"systems": names}) if one.systems == SYSTEMS else one
        for name, one in config.evaluate.judges.items()
    }
    return {
        "data": config.data.model_copy(update={"systems": names}),
        "prompts": config.prompts.model_copy(update={"messages": _messages(config)}),
        "teachers": tuple(_with_systems(config, teacher) for teacher in config.teachers),
        "voting": voting.model_copy(update={"tie": names[-1]}) if voting.tie in _set_aside(names) else voting,
        "evaluate": config.evaluate.model_copy(update={"judges": judges}) if judges else config.evaluate,
        "gate": gate.model_copy(update={"measures": names}) if gate.measures == SYSTEMS else gate,
    }


def _set_aside(names: Sequence[str]) -> tuple[str, ...]:
    """Default names of the two systems that are none of these."""
    return tuple(name for name in SYSTEMS[1:] if name not in names)


def _messages(config: RunConfig) -> dict[str, str | None]:
    asking = config.prompts.step_by_step
    return {system.name: asking if system.steps else system.message for system in config.systems}


def _with_systems(config: RunConfig, teacher: TeacherConfig) -> TeacherConfig:
    """The teacher with label words and instructions for the systems, where its template has none of its own."""
    systems, template = config.systems, teacher.template
    update: dict[str, Any] = {}
    fields = TeacherTemplate.model_fields
    if template.label_words == fields["label_words"].default:
        update["label_words"] = {system.name: system.word or system.name for system in systems}
    for key, role_play in (("instruction", True), ("neutral_instruction", False)):
        if getattr(template, key) == fields[key].default:
            lacking = next((system.name for system in systems if not system.description), None)
            if lacking is not None:
                raise ValueError(
                    f"systems: {lacking} has no description, so teacher '{teacher.name}' could not be told when a row "
                    f"is of it; give one, or an {key} in its template"
                )
            update[key] = instruction_of(systems, role_play=role_play)
    words = update.get("label_words", template.label_words)
    if set(words) == set(config.system_names):
        update["label_words"] = {name: words[name] for name in config.system_names}
    return teacher.model_copy(update={"template": TeacherTemplate.model_validate({**template.model_dump(), **update})})


def _check_left_alone(config: RunConfig) -> None:
    """Settings that are about the two systems do nothing for named ones, and are refused where they are set."""
    prompts = PromptConfig.model_fields
    meant = {
        "partition.alpha": (config.partition.alpha, 1.0, "systems[].shared"),
        "partition.beta": (config.partition.beta, 1.0, "systems[].shared"),
        "partition.mask": (config.partition.mask, "both", ""),
        "prompts.system1": (config.prompts.system1, None, "systems[].message"),
        "prompts.system2": (config.prompts.system2, prompts["system2"].default, "systems[].message"),
        "sft.warmup_system2_examples": (config.sft.warmup_system2_examples, 0, "a phase with method sft before RL"),
    }
    for key, (value, default, instead) in meant.items():
        if value != default:
            advice = f"; use {instead}" if instead else ""
            raise ValueError(f"{key} is about system1 and system2, and systems names others; leave it out{advice}")
    if config.data.named == "task-mix" and not set(SYSTEMS) <= set(config.system_names):
        raise ValueError("data.source is task-mix, whose rows are of system1 and system2; name other data")
    if not all(isinstance(phase, PhaseConfig) for phase in config.phases):
        first = config.system_names[0]
        effect = "is left out" if config.phases == DEFAULT_PHASES else "names no system"
        raise ValueError(f"phases {effect}; name each phase's, as in {{system: {first}, method: sft}}")


def check_named(config: RunConfig) -> None:
    """Raise ValueError for a setting that names a system that the run does not have."""
    if config.partition.mask != "both" and any(isinstance(phase, PhaseConfig) for phase in config.phases):
        raise ValueError("partition.mask is about the phases sft and rl, and `phases` names systems; leave it out")
    names = list(config.system_names)
    for key, name in _named(config):
        if name not in names:
            raise ValueError(f"{key}: '{name}' is no system{nearest(name, names)}; systems are {', '.join(names)}")
    for teacher in config.teachers:
        words = teacher.template.label_words
        if set(words) != set(names):
            raise ValueError(
                f"teachers: the label_words of '{teacher.name}' are for {', '.join(words)}, and the systems are "
                f"{', '.join(names)}; give a word for each"
            )


def _named(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Names of systems that the settings hold, each with its key."""
    for phase in config.phases:
        if isinstance(phase, PhaseConfig):
            yield "phases", phase.system
    if config.voting.tie != "hold_out":
        yield "voting.tie", config.voting.tie
    for teacher in config.teachers:
        yield from ((f"teachers: few_shot of '{teacher.name}'", row.system) for row in teacher.template.few_shot)
    for benchmark in config.evaluate.benchmarks:
        if benchmark.system is not None:
            yield f"evaluate.benchmarks: {benchmark.task}", benchmark.system
    for name, one in config.evaluate.judges.items():
        yield from ((f"evaluate.judges.{name}.systems", system) for system in one.systems)
