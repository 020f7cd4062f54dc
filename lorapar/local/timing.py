"""How long stages took, so that `lorapar plan` can say how long runs of the same shape will take.

timings/<stage>-<shape>/<finished>-<key>.json    in a store: seconds of one finished stage, and what they were for

A *shape* is what decides the time of a stage besides how much there is to do: model, number format, batch, lengths,
group size and the like. *Work* is how much there is: steps, rows, or elements. Only stages that a model or the
scores of all elements take part in are told, and only those that were made whole in one go: what went on from a
checkpoint, or knew answers from before, took less.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar.config import SYSTEMS, ModelConfig
from lorapar.config.base import merged
from lorapar.config.systems import slot_systems
from lorapar.records import Example, digest_of, read_records
from lorapar.stages.contract import StageCall
from lorapar.store import NotFoundError, ObjectStore
from lorapar.training.shares import SHARED_STAGES, visible_gpus, wanted_processes

if TYPE_CHECKING:
    from lorapar.local.folder import StageRecord

ROOT = "timings"
TOLD = ("vote", "init", "score", "partition", "sft", "rl", "publish", "evaluate")
"""Stages whose time is kept; of the second round of votes, whose rows the first decides, none is predicted."""
MODELS = 3
"""Models that an evaluation asks: base, after SFT, after RL; and the incumbent, where there is one."""
_MOST_READ = 8
"""Timings of one shape that are read, the newest ones."""
_LIKE_ROWS = 1.25
"""Rows whose mean size differs by more than this factor are of another kind, and take another time each."""
_NOT_WHOLE = ("recalled", "cached_votes", "failed_teachers", "filter_recalled")
"""Ends of metrics that say how much was known before, or was not asked to the end."""
_OF_TEACHER = ("name", "weight", "description")
_FREE = (
    *("max_steps", "epochs", "examples", "limit", "confidence"),
    *("learning_rate", "scheduler", "warmup_ratio", "weight_decay", "max_grad_norm"),
)
"""Settings of a section that say how much there is to do, or do not decide the time; all others are of the shape."""


class Timing(BaseModel):
    """What one finished stage took."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    shape: str
    """Digest of what decides the time besides the work."""
    work: float = Field(gt=0)
    """Steps, or rows; 1 of a stage whose settings alone decide."""
    row_bytes: float | None = Field(None, gt=0)
    """Mean size of the rows as they are on disk; None where no rows are read."""
    device: str
    processes: int = Field(gt=0)
    seconds: float = Field(gt=0)


@dataclass(frozen=True)
class Rows:
    """Rows that a stage reads or will read; None where that is not known."""

    train: int | None = None
    heldout: int | None = None
    voted: int | None = None
    judged: int | None = None
    """Development rows with a reference."""
    elements: int | None = None
    """No rows: trainable elements of the adapter."""
    mean_bytes: float | None = None


@dataclass(frozen=True)
class Todo:
    """A stage to come: its shape, and how much there is to do."""

    shape: str
    work: float
    row_bytes: float | None


@dataclass(frozen=True)
class Expected:
    """How long a stage will take, by records of the same shape."""

    seconds: float
    runs: int
    """Records behind it."""
    scaled: bool
    """Whether these had another number of steps or rows, and the time is scaled with it."""
    device: str
    processes: int


def todo(
    stage: str, settings: Mapping[str, Any], rows: Rows, models: int = MODELS, sharding: str = "none"
) -> Todo | None:
    """A stage's shape and work by its settings (as JSON); None where it is not told, or its work is not known.

    `models`: how many an evaluation asks.
    """
    shape, work = _shape_and_work(stage, settings, rows, models) if stage in TOLD else ({}, None)
    if not work:
        return None
    held = {"model": _model(settings), "sharding": sharding if stage in ("sft", "rl") else "none"}
    reads = stage in ("vote", "sft", "rl", "evaluate")
    return Todo(digest_of({"stage": stage, **held, **shape})[:16], work, rows.mean_bytes if reads else None)


def _shape_and_work(
    stage: str, settings: Mapping[str, Any], rows: Rows, models: int
) -> tuple[dict[str, Any], float | None]:
    own = settings.get(stage) or {}
    shape = {key: value for key, value in own.items() if key not in _FREE}
    if stage == "init":
        return {"adapter": settings["adapter"]}, 1.0
    if stage == "publish":
        picks = {key: settings[key] for key in ("publish", "evaluate") if settings.get(key)}
        return {"adapter": settings["adapter"], **picks}, rows.judged if picks else 1.0
    if stage == "partition":
        systems = len(settings.get("system_names") or SYSTEMS)
        return {key: value for key, value in settings.items() if key != "seed"}, systems * (rows.elements or 0)
    if stage == "vote":
        teachers = [{k: v for k, v in one.items() if k not in _OF_TEACHER} for one in settings["teachers"]]
        quorum = {key: settings["voting"].get(key) for key in ("quorum", "calibrate", "role_play")}
        asked = {"teachers": teachers, "asked": settings.get("asked"), **quorum}
        return asked, rows.voted if settings["round"] == "first" else None
    if stage == "score":  # of a system with fewer rows than that all are read: how many, the vote decides
        wanted = own["examples"] * _scored_systems(settings)
        return {"system": settings["system"], **shape}, wanted if rows.train is None or rows.train >= wanted else None
    if own.get("judges") or any(isinstance(one, dict) and one.get("judge") for one in own.get("rewards", {}).values()):
        return {}, None  # as of candidates
    if stage in ("sft", "rl"):
        return _trained(settings, own, shape, rows)
    return _evaluated(settings, own, shape, rows, models)


def _scored_systems(settings: Mapping[str, Any]) -> int:
    """How many systems a node scores: the graph has one place for all of named systems but the first."""
    system, names = settings["system"], settings.get("system_names", SYSTEMS)
    return len(slot_systems(names, system)) if system in SYSTEMS else 1


def _trained(
    settings: Mapping[str, Any], own: Mapping[str, Any], shape: dict[str, Any], rows: Rows
) -> tuple[dict[str, Any], float | None]:
    """Steps where they are set, else rows times epochs; a node of other than one plain phase tells of its like only."""
    trains = list(settings.get("trains", ()))
    of_phases = [own if isinstance(one, str) else merged(own, one.get("settings", {})) for one in trains]
    filtered = any(one.get("filter") for one in of_phases)  # then all rows are asked, and some of them learned from
    shape = {**shape, "trains": trains}
    if filtered or trains not in (["sft"], ["rl"]):  # one plain phase
        whole = {key: settings.get(key) for key in ("sft", "rl", "score")}
        return {**shape, "all": whole, "rows": rows.train}, None if rows.train is None else 1.0
    if own.get("max_steps") is not None:
        return {**shape, "counted": "steps"}, own["max_steps"]
    return {**shape, "counted": "rows"}, None if rows.train is None else own["epochs"] * rows.train


def _evaluated(
    settings: Mapping[str, Any], own: Mapping[str, Any], shape: dict[str, Any], rows: Rows, models: int
) -> tuple[dict[str, Any], float | None]:
    if rows.heldout is None:
        return shape, None
    limit = own.get("limit") and own["limit"] * len(settings["system_names"])
    asked = min(limit or rows.heldout, rows.heldout) * models
    if own.get("benchmarks"):  # whose rows are not counted here
        return {**shape, "asked": asked}, 1.0
    return shape, asked


def _model(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of the base model decides the time: a model of the hub goes by its name, a folder by what is in it."""
    if "model" not in settings:
        return None
    from lorapar.basemodel.resolve import Kind, kind_of  # late: a task of seconds needs no base model

    model = ModelConfig.model_validate(settings["model"])
    placed = kind_of(model) in (Kind.LOCAL, Kind.BUCKET)
    return {
        "model": model.digest if placed else model.name,
        **model.model_dump(mode="json", include={"dtype", "autocast", "quantization", "compute_dtype"}),
    }


def keep_timing(store: ObjectStore, record: StageRecord, call: StageCall[Any]) -> None:
    """Put into a store what the stage of a finished record took, from its first step to its last in this call.

    Nothing of stages that are not told, and where part of the work was known from before. It raises nothing: what the
    stage made counts more than how long that took.
    """
    try:
        timing = timing_of(record, call)
        if timing is not None:
            when = "".join(filter(str.isalnum, record.finished))[:15]
            key = f"{_folder(record.stage, timing.shape)}{when}-{record.key[:16]}.json"
            store.write(key, timing.model_dump_json(indent=2).encode())
    except Exception as error:  # whatever it is, hours of work are not lost for it
        call.progress.log(f"how long it took is not in the store: {error}")


def _folder(stage: str, shape: str) -> str:
    return f"{ROOT}/{stage}-{shape}/"


def timing_of(record: StageRecord, call: StageCall[Any]) -> Timing | None:
    """What the stage of a finished record took; None for stages that are not told, or that knew answers before."""
    if record.stage not in TOLD or not record.seconds or _knew_some(record):
        return None
    models = MODELS + any((folder / "adapter").is_dir() for folder in call.inputs.get("incumbent", ()))
    found = todo(record.stage, record.settings, _rows_of(record, call), models, call.sharding)
    if found is None or (record.stage == "score" and not record.metrics.get("rows")):
        return None  # an adapter that is trained as a whole is not scored
    return Timing(
        shape=found.shape,
        work=found.work,
        row_bytes=found.row_bytes,
        device=device_name(),
        processes=processes_here(record.stage, call.processes),
        seconds=record.seconds,
    )


def _knew_some(record: StageRecord) -> bool:
    """Whether part of the work was known from before; of several phases a metric tells with the phase's name."""
    return any(value for name, value in record.metrics.items() if name.endswith(_NOT_WHOLE))


def _rows_of(record: StageRecord, call: StageCall[Any]) -> Rows:
    """The rows that a stage read, counted in its inputs."""
    if record.stage == "partition":
        return Rows(elements=int(record.metrics.get("elements", 0)))
    if record.stage == "publish" and record.settings.get("publish"):
        examples = read_records(call.input("examples") / "examples.jsonl", Example)
        return Rows(judged=sum(map(is_judged, examples)))
    both = ("system1", "system2")
    named = {"vote": ("examples",), "score": ("rows",), "sft": both, "rl": both, "evaluate": ("heldout",)}
    folders = [folder for name in named.get(record.stage, ()) for folder in call.inputs.get(name, ())]
    files = [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]
    lines = list(map(_lines_of, files))
    count = sum(lines)
    mean = sum(path.stat().st_size for path in files) / count if count else None
    if record.stage == "evaluate":
        return Rows(heldout=count, mean_bytes=mean)
    if record.stage == "score":  # a file a system, of each of which as many are scored
        count = min(lines, default=0) * len(lines)
    return Rows(train=count, voted=int(record.metrics.get("rows", 0)), mean_bytes=mean)


def is_judged(row: Example) -> bool:
    """Whether `publish.pick: best` asks candidates a row, were its system known (the vote may give it none)."""
    return row.split == "development" and row.reference is not None


def _lines_of(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def processes_here(stage: str, most: int | None) -> int:
    """How many processes do a stage where this one runs, at most."""
    return wanted_processes(visible_gpus(), most) if stage in SHARED_STAGES else 1


@cache
def device_name() -> str:
    """What stages run on here: the GPU's name, or the processor's with the number of its cores that may be used."""
    if visible_gpus():
        import torch

        return str(torch.cuda.get_device_name(0))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "CPU"


def kept_timings(store: ObjectStore, stage: str, shape: str) -> list[Timing]:
    """The newest timings of a shape in a store; raises UnreachableError where that does not answer."""
    keys = sorted((entry.key for entry in store.list(_folder(stage, shape))), reverse=True)
    found = []
    for key in keys[:_MOST_READ]:
        try:
            found.append(Timing.model_validate_json(store.read(key)))
        except (NotFoundError, ValidationError):  # removed since, or of another version
            continue
    return found


def expected(wanted: Todo, timings: Iterable[Timing], device: str, processes: int) -> Expected | None:
    """The median of runs of this shape; None where there is none. Another device's only where none is of this.

    Where all had another number of steps or rows, each is scaled with it.
    """
    same = [one for one in timings if one.shape == wanted.shape and _alike(one.row_bytes, wanted)]
    places = {(one.device, one.processes) for one in same}
    if not places:
        return None
    here = (device, processes)
    place = here if here in places else max(places, key=lambda at: (sum(_at(one) == at for one in same), at))
    own = [one for one in same if _at(one) == place]
    exact = [one.seconds for one in own if one.work == wanted.work]
    scaled = [one.seconds * wanted.work / one.work for one in own]
    seconds = exact or scaled
    return Expected(median(seconds), len(seconds), not exact, *place)


def _at(timing: Timing) -> tuple[str, int]:
    return timing.device, timing.processes


def _alike(row_bytes: float | None, wanted: Todo) -> bool:
    if row_bytes is None or wanted.row_bytes is None:
        return True
    return 1 / _LIKE_ROWS <= row_bytes / wanted.row_bytes <= _LIKE_ROWS
