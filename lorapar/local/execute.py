"""Run one stage in this process: keep its unfinished work, measure it, seal what it made, complete its record."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lorapar import __version__
from lorapar.checkpoint import Generations, forget, kept
from lorapar.config import CheckpointConfig
from lorapar.local.folder import StageRecord
from lorapar.local.memory import peak_bytes, reset_peak
from lorapar.local.timing import keep_timing
from lorapar.own_code import code_digest, own_code_digest
from lorapar.progress import Progress
from lorapar.stages.contract import StageCall, run_stage
from lorapar.store import ObjectStore, seal, storage_errors


def new_record(node: str, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, list[str]]) -> StageRecord:
    """The record of a stage that has not run yet; `inputs` are digests. Its key says what the outputs depend on."""
    code = code_digest(f"lorapar.stages.{stage}") + own_code_digest(settings)
    return StageRecord(
        node=node, stage=stage, version=__version__, settings=dict(settings), inputs=dict(inputs), code=code
    )


@contextmanager
def executed(
    record: StageRecord, call: StageCall[Any], store: ObjectStore | None, checkpoint: CheckpointConfig
) -> Iterator[StageRecord]:
    """Run the stage, going on from unfinished work of the same key, here or in the store; the completed record.

    The block puts the outputs where they belong. Only then is the unfinished work in the store removed.
    """
    with kept(store, _unfinished(record), call.scratch, checkpoint, call.progress) as keeper:
        is_new = all(path.name.startswith(".") for path in call.scratch.iterdir())
        finished = execute(record, replace(call, keeper=keeper, store=store))
        yield finished
    keeper.forget()
    if store is not None and is_new and call.crew is None:  # on several nodes each knows of its own only
        keep_timing(store, finished, call)


def forget_unfinished(store: ObjectStore, record: StageRecord, progress: Progress) -> None:
    """Remove the checkpoints of a stage that another run, or an earlier start of this one, has finished."""
    forget(Generations(store, _unfinished(record)), progress)


def _unfinished(record: StageRecord) -> str:
    """What the unfinished work of a stage goes by."""
    return f"{record.stage}-{record.key}"


def execute(record: StageRecord, call: StageCall[Any]) -> StageRecord:
    """Run the stage and write a manifest into each output folder; returns the completed record.

    Raises the stage's own LoraparError, StorageError where the disk is full.
    """
    if "torch" in sys.modules:  # else no stage before has held tensors, and a task of seconds need not import the room
        from lorapar.basemodel.memory import give_back_freed_memory

        give_back_freed_memory()
    reset_peak()
    started = time.monotonic()
    with storage_errors(call.scratch):
        metrics = run_stage(record.stage, call)
        outputs = {name: seal(folder, f"{record.stage}.{name}").digest for name, folder in call.outputs.items()}
    return record.model_copy(
        update={
            "outputs": outputs,
            "metrics": metrics,
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": peak_bytes(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
