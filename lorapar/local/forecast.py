"""What training will leave out or cut of the rows, said before it is paid for: by `plan` from the rows as they are, by
`run` once the vote has assigned them to their systems.

Both need the rows and the model's tokenizer; neither rows of the hub nor weights are downloaded for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar.basemodel import wheel
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import SYSTEMS, RunConfig
from lorapar.config.systems import slot_of
from lorapar.config.training import PhaseConfig
from lorapar.data import LoadedData, load_data
from lorapar.data.mix import shares, token_counter
from lorapar.data.source import is_far
from lorapar.errors import BadInputError
from lorapar.evaluation.contamination import contamination
from lorapar.progress import Progress, Silent
from lorapar.records import Example, Omission, System, read_records, sample_rows
from lorapar.stages.tally import too_few_to_tell

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_ROWS = 2000
"""Rows that `plan` looks at; of more it takes a sample."""
_Found = Iterator[tuple[str, Omission]]


def planned_omissions(config: RunConfig, stages: Sequence[str]) -> list[str]:
    """What stages of training would leave out or cut, a line each, from all rows that may come to be theirs.

    Nothing where rows or tokenizer are not here. Raises BadInputError where a stage is sure to have too few rows.
    """
    if is_far(config.data) or not any(stage in ("sft", "rl") for stage in stages):
        return []
    tokenizer = _tokenizer(config)
    if tokenizer is None:
        return []
    try:
        loaded = load_data(config.data, config.seed, token_counter(config.data.length, tokenizer))
        lines, kept = _of_prepare(config, loaded)
    except ModuleNotFoundError:  # no pyarrow for Parquet
        return []
    if "gate" in stages and set(config.gate.measures) <= set(config.system_names):
        judged = sum(row.reference is not None for row in loaded.examples if row.split == "heldout")
        lines += filter(None, [too_few_to_tell(judged, config.gate.confidence)])
    rows = [row for row in kept if row.split == "train"]
    few = sample_rows(rows, MOST_ROWS, config.seed)
    if by_chance := config.voting.labels == "random":
        few = [row.model_copy(update={"known_system": None}) for row in few]
    try:
        found = list(_of_all(config, stages, few, tokenizer))
    except BadInputError as error:
        if len(few) == len(rows):
            # Nothing is printed before this line, and the wrong columns may be why.
            read = [note for note in loaded.notes if " is recognised as " in note]
            raise BadInputError("; ".join([str(error), *read])) from None
        return [*lines, f"of {len(few):,} rows that were looked at: {error}"]
    who = "chance" if by_chance else "the vote"
    unsure = f" (were all of them its own: {who} decides)" if any(row.known_system is None for row in few) else ""
    return [*lines, *(_line(stage, one) + unsure for stage, one in found if one.count)]


def _of_prepare(config: RunConfig, loaded: LoadedData) -> tuple[list[str], list[Example]]:
    """What prepare will say of sources, lengths and rows that are evaluated, and the rows that it keeps.

    Benchmarks of the hub are left to prepare.
    """
    here = [one for one in config.data.benchmarks if one.data is not None]
    lines: list[str] = shares(loaded.sources)
    found = contamination(loaded.examples, config.data, here, config.seed, lines.append)
    omissions = [one for one in (*loaded.omissions, *found.omissions) if one.count]
    return [*(f"prepare: {line}" for line in lines), *(_line("prepare", one) for one in omissions)], found.kept


def _line(stage: str, one: Omission) -> str:
    return f"{'WARNING: ' if one.is_much else ''}{stage}: {one.line}"


def log_forecast(config: RunConfig, tally: dict[str, Path], stages: Sequence[str], progress: Progress) -> None:
    """Say what SFT and RL will leave out or cut of the rows that the vote gave them; `tally`: folders by system.

    Raises BadInputError, as they would after much more work, where one has too few rows.
    """
    tokenizer = _tokenizer(config)
    if tokenizer is None:
        return
    names = config.system_names
    rows = {
        system: list(read_records(tally[slot] / file, Example))
        for system, (slot, file) in ((name, slot_of(names, name)) for name in names)
    }
    for stage, one in _training(config, stages, lambda phase: rows, tokenizer):
        if one.count:
            progress.log(f"{'WARNING: ' if one.is_much else ''}ahead in {stage}: {one.line}")


def _of_all(
    config: RunConfig, stages: Sequence[str], rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> _Found:
    """Rows whose system nobody knows yet count for the one that a phase trains on, or for the first one with `all`."""

    def rows_for(phase: PhaseConfig) -> dict[System, list[Example]]:
        unknown = config.system_names[0] if _takes_all(config, phase) else phase.system
        return {
            name: [row for row in rows if row.known_system == name or (name == unknown and row.known_system is None)]
            for name in config.system_names
        }

    yield from _training(config, stages, rows_for, tokenizer)


def _takes_all(config: RunConfig, phase: PhaseConfig) -> bool:
    return (phase.of(config.sft).rows if phase.method == "sft" else phase.of(config.rl).rows) == "all"


def _training(
    config: RunConfig,
    stages: Sequence[str],
    rows_for: Callable[[PhaseConfig], Mapping[System, list[Example]]],
    tokenizer: PreTrainedTokenizerBase,
) -> _Found:
    from lorapar.training.rows import drop_unanswered, rl_rows, sft_rows

    for phase in _trained(config):
        rows = rows_for(phase)
        if phase.method not in stages or not any(rows.values()):
            continue
        if phase.method == "rl":
            if _takes_all(config, phase) or rows[phase.system]:
                for one in rl_rows(rows, phase.system, phase.of(config.rl), tokenizer, config.prompts).omissions:
                    yield "rl", one
            continue
        section = phase.of(config.sft)
        drawn = sft_rows(rows, phase.system, section, config.seed, Silent())
        for one in drop_unanswered(drawn, tokenizer, config.prompts, section).omissions:
            yield "sft", one


def _trained(config: RunConfig) -> list[PhaseConfig]:
    """Every phase with its system; SFT before RL where both are trained, whatever their order."""
    named = [phase for phase in config.phases if isinstance(phase, PhaseConfig)]
    own = {"sft": SYSTEMS[0], "rl": SYSTEMS[1]}
    return named or [
        PhaseConfig.model_validate({"system": own[method], "method": method})
        for method in ("sft", "rl")
        if method in config.methods
    ]


def _tokenizer(config: RunConfig) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer; None where it would have to be downloaded."""
    if find_spec("transformers") is None or find_spec("torch") is None:
        return None
    if kind_of(config.model) is Kind.WHEEL and not wheel.is_unpacked():
        return None
    from lorapar.basemodel import load_tokenizer_alone

    return load_tokenizer_alone(config.model)
