"""prepare: the examples of a run, read from their source, checked, and split into training and held-out rows.

Every row is also seen through the model's chat template, so that what it would lose is known before anything is
computed. The outputs do not depend on that: another model or prompt re-runs this stage, and nothing after it by itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from lorapar.config import DataConfig, ModelConfig, PromptConfig
from lorapar.config.data import TASK_MIX
from lorapar.data import LoadedData, data_digest, load_data
from lorapar.data.mix import CountTokens, token_counter
from lorapar.errors import BadInputError, IntegrityError
from lorapar.evaluation.contamination import contamination
from lorapar.extras import pip_install
from lorapar.progress import log_omissions
from lorapar.records import OMISSIONS, Example, Omission, omissions_of, write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.stages.model_text import row_check

if TYPE_CHECKING:
    from lorapar.data.captured import AskTeacher
    from lorapar.data.rendering import RowCheck

_SHOWN = 20
"""Reasons for leaving rows out that the summary spells out."""
CAPTURED_FILES = "captured_files.json"
"""By capture, the sha256 of each file that was read, by its key in the store."""


class Settings(StageSettings):
    """Where the examples come from, the seed of the generated ones and of the split, and who will read them how."""

    model: ModelConfig
    data: DataConfig
    prompts: PromptConfig
    seed: int
    rewarded_without_answer: Literal["none", "tests", "all", "no_rl"] = "none"
    """Rows without a short answer that RL rewards all the same; `plan` knows it from `rl.rewards` and `phases`."""


SPEC = StageSpec(
    name="prepare",
    summary="read the examples, check every row and hold some out",
    settings=Settings,
    outputs=("examples",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write examples.jsonl (every split) and summary.json."""
    data = call.settings.data
    digest = data_digest(data)
    if data.digest not in (None, digest):
        why = " (a request was deleted there, or a day was; the next try does without it)" if data.has_capture else ""
        raise IntegrityError(f"data.source: {data.named} has changed since the run was planned{why}; run it again")
    check = row_check(call.settings.model, call.settings.prompts, call.progress)
    loaded = load_data(data, call.settings.seed, _token_counter(data, check), _teacher(call))
    if data.named == TASK_MIX:
        loaded = _in_tags(loaded, call.settings.prompts)
    found = contamination(loaded.examples, data, data.benchmarks, call.settings.seed, call.progress.log)
    loaded = replace(loaded, examples=found.kept)
    _check_text(call, loaded, check)
    omissions = [*loaded.omissions, *found.omissions, *_omissions(loaded, call.settings.rewarded_without_answer)]
    _log_notes(call, loaded, omissions)
    folder = call.output("examples")
    write_records(folder / "examples.jsonl", loaded.examples)
    summary = {"source": data.named, "digest": digest, **_summary(loaded), OMISSIONS: omissions_of(*omissions)}
    if loaded.captures:
        summary["captures"] = loaded.captures
        write_json(folder / CAPTURED_FILES, loaded.captured_files)
    if data.sources:
        summary["sources"] = [one.summary() for one in loaded.sources]
    if found.overlap:  # where nothing is found, another benchmark leaves the output as it was, and what reads it too
        summary["overlap"] = {"rows": [asdict(one) for one in found.overlap], "left_out": data.decontaminate}
    write_json(folder / "summary.json", summary)
    rows = {f"rows_{name}": float(summary["splits"][name]["rows"]) for name in summary["splits"]}
    left_out = len(loaded.left_out) + sum(one.count for one in loaded.omissions)
    return {**rows, "rows_left_out": float(left_out), "rows_overlapping": float(len(found.overlap))}


def _teacher(call: StageCall[Settings]) -> AskTeacher | None:
    """What writes the answers that requests of a capture lack; None where no teacher is to."""
    if call.settings.data.capture.teacher is None:
        return None
    from lorapar.data.teacher_answers import TeacherAnswers

    return TeacherAnswers(call.settings.data.capture, call.scratch, call.progress, call.keeper.tick)


def _in_tags(loaded: LoadedData, prompts: PromptConfig) -> LoadedData:
    """The generated rows with the tags that the settings name; rows of other sources have the tags they have."""
    written = [row.model_copy(update={"answer": prompts.tags.written(row.answer)}) for row in loaded.examples]
    return replace(loaded, examples=written)


def _token_counter(data: DataConfig, check: RowCheck | None) -> CountTokens | None:
    """Counts a text's tokens by the model's tokenizer, where the settings have limits in tokens."""
    if check is not None:
        return token_counter(data.length, check.tokenizer)
    if data.length.in_tokens:
        raise BadInputError(f"data.length: limits in tokens need torch and transformers: {pip_install('train')}")
    return None


def _check_text(call: StageCall[Settings], loaded: LoadedData, check: RowCheck | None) -> None:
    """Say what the model's chat template does to rows; raises BadInputError where a question would be lost."""
    if check is not None:
        check.see(loaded.examples)
        for note in check.notes():
            call.progress.log(note)


def _cannot_be_rewarded(example: Example, without_answer: str) -> bool:
    if example.reference is not None or without_answer == "all":
        return False
    return not (without_answer == "tests" and example.tests)


def _omissions(loaded: LoadedData, without_answer: str) -> list[Omission]:
    rows = len(loaded.examples)
    neither = "neither tests nor a" if without_answer == "tests" else "no"
    return [
        Omission(
            count=len(loaded.left_out),
            total=rows + len(loaded.left_out),
            what="rows left out",
            why=f"data.bad_rows is leave_out, the first: {next(iter(loaded.left_out), '')}",
            remedy="fix them",
        ),
        Omission(
            count=sum(_cannot_be_rewarded(one, without_answer) for one in loaded.examples),
            total=rows,
            what=f"rows have {neither} reference answer",
            why=("" if without_answer == "no_rl" else "RL leaves them out and ") + "their accuracy cannot be measured",
            remedy="name data.columns.reference or reference_pattern",
        ),
    ]


def _log_notes(call: StageCall[Settings], loaded: LoadedData, omissions: list[Omission]) -> None:
    """Say what was left out; raises BadInputError where RL follows and no row could be rewarded."""
    for note in loaded.notes:
        call.progress.log(note)
    if loaded.more and not call.settings.data.sources:
        call.progress.log(f"data.limit is {call.settings.data.limit:,}: the rows behind them are not read")
    for column, count in loaded.blank_texts.items():
        call.progress.log(f"{count:,} cells of '{column}' hold a text such as nan or <NA> and count as empty")
    without = call.settings.rewarded_without_answer
    trains = [one for one in loaded.examples if one.split == "train"]
    if without != "no_rl" and all(_cannot_be_rewarded(one, without) for one in trains):
        nothing = (
            "no row has a short reference answer, so RL has nothing to reward: name data.columns.reference or "
            "reference_pattern, or stop with --until sft"
        )
        if call.rewarded:
            raise BadInputError(nothing)
        log_omissions(call.progress, omissions[:-1])
        call.progress.log(nothing)
    else:
        log_omissions(call.progress, omissions)


def _summary(loaded: LoadedData) -> dict[str, Any]:
    splits = {}
    for name in ("train", "heldout", "development"):
        rows = [example for example in loaded.examples if example.split == name]
        if name == "development" and not rows:
            continue  # so summaries of runs without them are as they were
        systems = Counter(example.known_system for example in rows if example.known_system)
        splits[name] = {
            "rows": len(rows),
            "with_reference": sum(example.reference is not None for example in rows),
            "known_systems": dict(sorted(systems.items())),
        }
    return {"splits": splits, "left_out": len(loaded.left_out), "left_out_first": loaded.left_out[:_SHOWN]}
