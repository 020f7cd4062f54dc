"""prepare: the examples of a run, read from their source, checked, and split into training and held-out rows.

Every row is also seen through the model's chat template, so that what it would lose is known before anything is
computed. The outputs do not depend on that: another model or prompt re-runs this stage, and nothing after it by itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from lorapar.config import DataConfig, ModelConfig, PromptConfig
from lorapar.data import LoadedData, data_digest, load_data
from lorapar.data.source import TASK_MIX
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import say_omissions
from lorapar.records import OMISSIONS, Omission, omissions_of, write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.stages.model_text import row_check

_SHOWN = 20
"""Reasons for leaving rows out that the summary spells out."""


class Settings(StageSettings):
    """Where the examples come from, the seed of the generated ones and of the split, and who will read them how."""

    model: ModelConfig
    data: DataConfig
    prompts: PromptConfig
    seed: int


SPEC = StageSpec(
    name="prepare",
    summary="read the examples, check every row and hold some out",
    settings=Settings,
    outputs=("examples",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write examples.jsonl (both splits) and summary.json."""
    data = call.settings.data
    digest = data_digest(data)
    if data.digest not in (None, digest):
        raise IntegrityError(f"data.source: {data.source} has changed since the run was planned; run it again")
    loaded = load_data(data, call.settings.seed)
    if data.source == TASK_MIX:
        loaded = _in_tags(loaded, call.settings.prompts)
    _check_text(call, loaded)
    omissions = _omissions(loaded)
    _tell(call, loaded, omissions)
    folder = call.output("examples")
    write_records(folder / "examples.jsonl", loaded.examples)
    summary = {"source": data.source, "digest": digest, **_summary(loaded), OMISSIONS: omissions_of(*omissions)}
    write_json(folder / "summary.json", summary)
    rows = {f"rows_{name}": float(summary["splits"][name]["rows"]) for name in ("train", "heldout")}
    return {**rows, "rows_left_out": float(len(loaded.left_out))}


def _in_tags(loaded: LoadedData, prompts: PromptConfig) -> LoadedData:
    """The generated rows with the tags that the settings name; rows of other sources have the tags they have."""
    written = [row.model_copy(update={"answer": prompts.tags.written(row.answer)}) for row in loaded.examples]
    return replace(loaded, examples=written)


def _check_text(call: StageCall[Settings], loaded: LoadedData) -> None:
    """Say what the model's chat template does to rows; raises BadInputError where a question would be lost."""
    check = row_check(call.settings.model, call.settings.prompts, call.progress)
    if check is not None:
        check.see(loaded.examples)
        for note in check.notes():
            call.progress.say(note)


def _omissions(loaded: LoadedData) -> list[Omission]:
    rows = len(loaded.examples)
    return [
        Omission(
            count=len(loaded.left_out),
            total=rows + len(loaded.left_out),
            what="rows left out",
            why=f"data.bad_rows is leave_out, the first: {next(iter(loaded.left_out), '')}",
            remedy="mend them",
        ),
        Omission(
            count=sum(one.reference is None for one in loaded.examples),
            total=rows,
            what="rows have no reference answer",
            why="RL leaves them out and their accuracy cannot be measured",
            remedy="name data.columns.reference or reference_pattern",
        ),
    ]


def _tell(call: StageCall[Settings], loaded: LoadedData, omissions: list[Omission]) -> None:
    """Say what was left out; raises BadInputError where RL follows and no row could be rewarded."""
    for note in loaded.notes:
        call.progress.say(note)
    if loaded.more:
        call.progress.say(f"data.limit is {call.settings.data.limit:,}: the rows behind them are not read")
    for column, count in loaded.blank_texts.items():
        call.progress.say(f"{count:,} cells of '{column}' hold a text such as nan or <NA> and count as empty")
    if all(one.reference is None for one in loaded.examples if one.split == "train"):
        nothing = (
            "no row has a short reference answer, so RL has nothing to reward: name data.columns.reference or "
            "reference_pattern, or stop with --until sft"
        )
        if call.rewarded:
            raise BadInputError(nothing)
        say_omissions(call.progress, omissions[:1])
        call.progress.say(nothing)
    else:
        say_omissions(call.progress, omissions)


def _summary(loaded: LoadedData) -> dict[str, Any]:
    splits = {}
    for name in ("train", "heldout"):
        rows = [example for example in loaded.examples if example.split == name]
        systems = Counter(example.known_system for example in rows if example.known_system)
        splits[name] = {
            "rows": len(rows),
            "with_reference": sum(example.reference is not None for example in rows),
            "known_systems": dict(sorted(systems.items())),
        }
    return {"splits": splits, "left_out": len(loaded.left_out), "left_out_first": loaded.left_out[:_SHOWN]}
