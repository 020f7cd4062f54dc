"""score: how much one system's loss depends on each LoRA element, from a sample of that system's training rows.

The node `score-system1` scores the first system, `score-system2` the second, as of two; of named systems also all
others, each into a folder of its own beside the second's files.

Kinds of adapters that are trained as a whole have no scores: `whole.json` then holds the shapes of their tensors.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import SYSTEMS, ModelConfig, PromptConfig, ScoreConfig
from lorapar.config.systems import slot_of, slot_systems
from lorapar.errors import BadInputError
from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.progress import log_omissions
from lorapar.prompts import FittingRows, collate, fit_rows, rows_of
from lorapar.ranks import Ranks
from lorapar.records import (
    OMISSIONS,
    Example,
    System,
    digest_of,
    omissions_of,
    read_json,
    read_records,
    sample_rows,
    write_json,
)
from lorapar.stages.contract import WHOLE_FILE, Metrics, StageCall, StageSettings, StageSpec
from lorapar.stages.processes import parts_count, run_in_processes
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
    """Which of the two places of the graph it scores, or one system by name."""
    system_names: tuple[System, ...] = SYSTEMS


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
    if (shapes := _whole_shapes(call.input("adapter"))) is not None:
        call.progress.log("nothing is scored: an adapter of this kind is trained as a whole")
        write_json(call.output("scores") / WHOLE_FILE, {"shapes": shapes})
        write_json(call.output("scores") / "summary.json", {"rows": 0, OMISSIONS: []})
        return {"rows": 0.0}
    if (processes := parts_count(call, -(-call.settings.score.examples // call.settings.score.batch_size))) > 1:
        return run_in_processes(SPEC.name, call, processes)
    import_at_once(*MODEL_LIBRARIES)
    from lorapar.adapter import load_adapter
    from lorapar.basemodel import load_model, load_tokenizer

    tokenizer = load_tokenizer(call.settings.model, call.progress)
    model = load_adapter(load_model(call.settings.model, call.progress), call.input("adapter"), trainable=True)
    return _metrics({system: _scored(one, model, tokenizer) for system, one in _parts(call).items()})


def _whole_shapes(adapter: Path) -> dict[str, list[int]] | None:
    """Shape of every tensor of an adapter without the element partition, by name; None for any other."""
    from lorapar.adapter import WHOLE_KINDS
    from lorapar.adapter.files import read_tensors

    mark = adapter / "lorapar_adapter.json"
    if not mark.is_file() or read_json(mark).get("kind") not in WHOLE_KINDS:
        return None
    tensors, _ = read_tensors(adapter / "adapter_model.safetensors")
    return {name: list(tensors[name].shape) for name in sorted(tensors)}


def _parts(call: StageCall[Settings]) -> dict[System, StageCall[Settings]]:
    """By system, the call as if it were the only one that this node scores."""
    settings = call.settings
    if settings.system not in SYSTEMS or settings.system_names == SYSTEMS:
        return {settings.system: call}
    first, *others = slot_systems(settings.system_names, settings.system)
    parts = {first: replace(call, settings=settings.model_copy(update={"system": first}))}
    for system in others:
        outputs, scratch = {"scores": call.output("scores") / system}, call.scratch / system
        for folder in (*outputs.values(), scratch):
            folder.mkdir(parents=True, exist_ok=True)
        own = settings.model_copy(update={"system": system})
        parts[system] = replace(call, settings=own, outputs=outputs, scratch=scratch)
    return parts


def _metrics(found: dict[System, Metrics]) -> Metrics:
    """Of one system its own; of several the first's, and all with their names."""
    first = next(iter(found.values()))
    if len(found) == 1:
        return first
    return first | {f"{system}_{key}": value for system, own in found.items() for key, value in own.items()}


def _scored(call: StageCall[Settings], model: Any, tokenizer: Any) -> Metrics:
    from lorapar.adapter import ScoreAccumulator, save_scores

    settings = call.settings
    rows = _chosen(call)
    found = _fitting(tokenizer, rows, settings)
    # Rows of like length together: what is padding in a batch is computed for nothing, and the sums have no order.
    encoded, (left_out, cut) = sorted(found.encoded, key=lambda row: len(row["input_ids"])), found.omissions
    log_omissions(call.progress, found.omissions)
    accumulator = ScoreAccumulator(model)
    pad = int(tokenizer.pad_token_id)
    seconds = _accumulate(accumulator, encoded, settings.score.batch_size, pad, call)
    if not Ranks.here().first:
        return {}
    scores = accumulator.scores()
    save_scores(call.output("scores") / "scores.safetensors", scores, _provenance(call, rows, len(encoded)))
    for measure in settings.score.also:
        path = call.output("scores") / f"{measure}.safetensors"
        save_scores(path, accumulator.measure(measure), {"system": settings.system})
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
    file = slot_of(call.settings.system_names, system)[1] if system in call.settings.system_names else "examples.jsonl"
    path = call.input("rows") / file
    rows = sample_rows(list(read_records(path, Example)), wanted, call.settings.seed)
    if not rows:
        raise BadInputError(f"{path}: no row of {system} to score with; change the voting or add data")
    if len(rows) < wanted:
        call.progress.log(f"score.examples is {wanted}, but {system} has only {len(rows)} training rows: all are used")
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
    """Add all rows, going on after those of an earlier call; returns the seconds a row took.

    With several processes each takes a batch of every round, and the first one has all sums in the end.
    """
    ranks = Ranks.here()
    done = begun = _resume(accumulator, call, ranks)
    call.progress.start(f"scoring {call.settings.system}", total=len(encoded) - done)
    started = time.monotonic()
    while done < len(encoded):
        end = min(done + batch_size * ranks.count, len(encoded))
        first = done + batch_size * ranks.rank
        if first < end:
            accumulator.update(collate(encoded[first : min(first + batch_size, end)], pad_id), first)
        call.progress.advance(end - done)
        done = end
        if ranks.any(ranks.first and call.keeper.due())[0]:
            _save(accumulator, done, call, ranks)
    ranks.add_up(accumulator.sums())
    accumulator.examples = done
    return (time.monotonic() - started) / max(1, len(encoded) - begun)


def _resume(accumulator: ScoreAccumulator, call: StageCall[Settings], ranks: Ranks) -> int:
    """Take up what an earlier call left; returns the number of rows it had scored.

    With as many processes each goes on with its own sums, so that the same bytes come of it; else the first with all.
    """
    from lorapar.adapter.files import read_tensors

    done, count = newest_sums(call.scratch) if ranks.first else (0, 0)
    done, count = ranks.from_first(done), ranks.from_first(count)
    if done:
        call.progress.log(f"going on after {done} rows that were scored before")
    mine = [ranks.rank] if count == ranks.count else range(count) if ranks.first else []
    for rank in mine:
        accumulator.add_state_dict(read_tensors(call.scratch / sums_name(done, rank, count))[0])
    return done


def _save(accumulator: ScoreAccumulator, done: int, call: StageCall[Settings], ranks: Ranks) -> None:
    """Write every process's sums; those of an earlier moment go once these are whole."""
    from lorapar.adapter.files import write_tensors

    write_tensors(call.scratch / sums_name(done, ranks.rank, ranks.count), accumulator.state_dict(), {})
    ranks.wait()
    if ranks.first:
        for path in call.scratch.glob("sums-*"):
            if not path.name.startswith(f"sums-{done}-"):
                path.unlink()
        call.keeper.keep()
    ranks.wait()


def sums_name(done: int, rank: int, count: int) -> str:
    """The file of one of `count` processes' sums, after `done` rows of all."""
    return f"sums-{done}-{rank}-of-{count}.safetensors"


def newest_sums(scratch: Path) -> tuple[int, int]:
    """After how many rows, and by how many processes, the newest whole set of sums was written; zeros without one."""
    found = [re.fullmatch(r"sums-(\d+)-0-of-(\d+)\.safetensors", path.name) for path in scratch.glob("sums-*")]
    sets = sorted(((int(one[1]), int(one[2])) for one in found if one), reverse=True)
    whole = (
        one for one in sets if all((scratch / sums_name(one[0], rank, one[1])).is_file() for rank in range(one[1]))
    )
    return next(whole, (0, 0))


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
