"""score: how much one system's loss depends on each LoRA element, from a sample of that system's training rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import ModelConfig, PromptConfig, ScoreConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress, say_omissions
from lorapar.prompts import FittingRows, collate, fit_rows, rows_of
from lorapar.records import (
    OMISSIONS,
    Example,
    System,
    digest_of,
    omissions_of,
    read_records,
    sample_rows,
    write_json,
)
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.store import read_manifest

if TYPE_CHECKING:
    from lorapar.adapter import ScoreAccumulator

Encoded = dict[str, list[int]]


class Settings(StageSettings):
    """The base model, how rows are asked, how many are scored, and which system they are of."""

    model: ModelConfig
    prompts: PromptConfig
    score: ScoreConfig
    seed: int
    system: System


SPEC = StageSpec(
    name="score",
    summary="score every LoRA element's importance for one system",
    settings=Settings,
    inputs=("adapter", "rows"),
    outputs=("scores",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write scores.safetensors with its provenance, and summary.json with what was left out or cut.

    A killed call goes on from the partial sums in scratch.
    """
    from lorapar.adapter import ScoreAccumulator, load_adapter, save_scores
    from lorapar.basemodel import load_model, load_tokenizer

    settings = call.settings
    tokenizer = load_tokenizer(settings.model, call.progress)
    rows = _chosen(call)
    found = _fitting(tokenizer, rows, settings)
    # Rows of like length together: what is padding in a batch is computed for nothing, and the sums have no order.
    encoded, (left_out, cut) = sorted(found.encoded, key=lambda row: len(row["input_ids"])), found.omissions
    say_omissions(call.progress, found.omissions)
    model = load_adapter(load_model(settings.model, call.progress), call.input("adapter"), trainable=True)
    accumulator = ScoreAccumulator(model)
    pad = int(tokenizer.pad_token_id)
    seconds = _accumulate(accumulator, encoded, settings.score.batch_size, pad, call)
    scores = accumulator.scores()
    save_scores(call.output("scores") / "scores.safetensors", scores, _provenance(call, rows, len(encoded)))
    write_json(call.output("scores") / "summary.json", {"rows": len(encoded), OMISSIONS: omissions_of(left_out, cut)})
    return {
        "rows": float(len(encoded)),
        "rows_left_out": float(left_out.count),
        "rows_cut": float(cut.count),
        "seconds_per_row": seconds,
        "total_importance": sum(float(tensor.double().sum()) for tensor in scores.values()),
    }


def _chosen(call: StageCall[Settings]) -> list[Example]:
    wanted, system = call.settings.score.examples, call.settings.system
    path = call.input("rows") / "examples.jsonl"
    rows = sample_rows(list(read_records(path, Example)), wanted, call.settings.seed)
    if not rows:
        raise BadInputError(f"{path}: no row of {system} to score with; change the voting or add data")
    if len(rows) < wanted:
        call.progress.say(f"score.examples is {wanted}, but {system} has only {len(rows)} training rows: all are used")
    return rows


def _fitting(tokenizer: Any, rows: Sequence[Example], settings: Settings) -> FittingRows:
    """The rows as tokens, and those that are left out or cut."""
    limit = settings.score.max_length
    found = fit_rows(tokenizer, rows_of(rows, settings.system), settings.prompts, limit, "score.max_length")
    if not found.encoded:
        raise BadInputError(
            f"score.max_length is {limit}, which cuts off the whole answer of all {len(rows)} rows; raise it"
        )
    return found


def _accumulate(
    accumulator: ScoreAccumulator,
    encoded: Sequence[Encoded],
    batch_size: int,
    pad_id: int,
    call: StageCall[Settings],
) -> float:
    """Add all rows, going on after those of an earlier call; returns the seconds a row took."""
    partial = call.scratch / "partial.safetensors"
    done = _resume(accumulator, partial, call.progress)
    call.progress.start(f"scoring {call.settings.system}", total=len(encoded) - done)
    started = time.monotonic()
    for start in range(done, len(encoded), batch_size):
        batch = encoded[start : start + batch_size]
        accumulator.update(collate(batch, pad_id))
        call.progress.advance(len(batch))
        if call.keeper.due():
            _save(accumulator, partial)
            call.keeper.keep()
    return (time.monotonic() - started) / max(1, len(encoded) - done)


def _resume(accumulator: ScoreAccumulator, partial: Path, progress: Progress) -> int:
    """Take up what an earlier call left; returns the number of rows it had scored."""
    from lorapar.adapter.files import read_tensors

    if partial.is_file():
        accumulator.load_state_dict(read_tensors(partial)[0])
        progress.say(f"going on after {accumulator.examples} rows that were scored before")
    return accumulator.examples


def _save(accumulator: ScoreAccumulator, partial: Path) -> None:
    from lorapar.adapter.files import write_tensors

    write_tensors(partial, accumulator.state_dict(), {})


def _provenance(call: StageCall[Settings], rows: Sequence[Example], scored: int) -> dict[str, str]:
    """What the scores were made from; string values, because safetensors metadata holds nothing else."""
    settings = call.settings
    return {
        "system": settings.system,
        "model": settings.model.name,
        "model_revision": settings.model.revision or "",
        "model_digest": settings.model.digest or "",
        "adapter_digest": read_manifest(call.input("adapter")).digest,
        "data_digest": read_manifest(call.input("rows")).digest,
        "sample_digest": digest_of([row.model_dump(mode="json") for row in rows]),
        "samples": str(scored),
        "seed": str(settings.seed),
    }
