"""How long the stages of a planned run will take, by earlier runs of the same shape in its store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lorapar.config import RunConfig
from lorapar.data import load_examples
from lorapar.data.source import is_far
from lorapar.errors import LoraparError
from lorapar.local.estimate import trained_elements
from lorapar.local.timing import (
    MODELS,
    ROOT,
    TOLD,
    Expected,
    Rows,
    Todo,
    device_name,
    expected,
    is_judged,
    kept_timings,
    processes_here,
    todo,
)
from lorapar.records import Example
from lorapar.registry import PRODUCTION, Registry
from lorapar.report.formats import count_of, duration
from lorapar.stages.graph import Node
from lorapar.stages.plan_file import Plan
from lorapar.store import ObjectStore, is_s3, open_store
from lorapar.voting.ballots import is_voted_on

_READS = {"vote": ("train", "heldout", "development"), "sft": ("train",), "rl": ("train",), "evaluate": ("heldout",)}
_SAMPLE = 1000
"""Rows whose size is looked at, so that millions take no time."""


def expectations(plan: Plan, nodes: Iterable[Node]) -> tuple[dict[str, Expected], str | None]:
    """By node, how long it will take, where runs of that shape are recorded; and why a store could not be asked."""
    try:
        store = _store_of(plan.config)
        return ({} if store is None else _found(plan, nodes, store)), None
    except (LoraparError, OSError) as error:
        return {}, f"no times of earlier runs: {error}"


def _found(plan: Plan, nodes: Iterable[Node], store: ObjectStore) -> dict[str, Expected]:
    config, rows = plan.config, list(_rows(plan.config))
    models = MODELS + _has_incumbent(config)
    found = {}
    for node in nodes:
        idle = node.stage == "score" and not config.adapter.is_partitioned
        wanted = _todo(node, plan, rows, models) if node.name in plan.sections and not idle else None
        if wanted is None:
            continue
        timings = kept_timings(store, node.stage, wanted.shape)
        estimate = expected(wanted, timings, device_name(), processes_here(node.stage, config.processes))
        if estimate is not None:
            found[node.name] = estimate
    return found


def hours_text(found: dict[str, Expected], running: Iterable[Node]) -> list[str]:
    """What is below the table: what the times come from, their sum, and which stages with a model it lacks."""
    if not found:
        return []
    lines = []
    places = dict.fromkeys((one.device, one.processes) for one in found.values())
    for device, processes in places:
        own = {name: one for name, one in found.items() if (one.device, one.processes) == (device, processes)}
        on = f"{device}, {processes} processes" if processes > 1 else device
        each = ", ".join(f"{name} {duration(one.seconds)} ({_behind(one)})" for name, one in own.items())
        lines.append(f"on {on}: {each}")
    rest = [node.name for node in running if node.stage in TOLD and node.name not in found]
    total = duration(sum(one.seconds for one in found.values()))
    return [*lines, f"together {total}" + (f", without {', '.join(rest)}: no run like it is recorded" if rest else "")]


def _behind(one: Expected) -> str:
    return count_of(one.runs, "run") + (", scaled" if one.scaled else "")


def _store_of(config: RunConfig) -> ObjectStore | None:
    """The run's store, where it has one that knows any time; a folder that is not there is not made."""
    address = config.store.address
    if address is None or not (is_s3(address) or Path(address).is_dir()):
        return None
    store = open_store(address)
    return store if next(iter(store.list(f"{ROOT}/")), None) is not None else None


def _rows(config: RunConfig) -> Iterator[Example]:
    """The run's rows where they are here; a hub's are not fetched."""
    if not is_far(config.data):
        try:
            yield from load_examples(config.data, config.seed)
        except ModuleNotFoundError:  # no pyarrow for Parquet
            return


def _todo(node: Node, plan: Plan, rows: list[Example], models: int) -> Todo | None:
    return todo(
        node.stage,
        plan.sections[node.name],
        _counted(node.stage, rows, plan.config),
        models,
        sharding=plan.config.sharding,
    )


def _counted(stage: str, rows: list[Example], config: RunConfig) -> Rows:
    if stage == "partition":
        return Rows(elements=trained_elements(config))
    if not rows:
        return Rows()
    split = {name: sum(row.split == name for row in rows) for name in ("train", "heldout")}
    own = list(islice((row for row in rows if row.split in _READS.get(stage, ())), _SAMPLE))
    sizes = [len(row.model_dump_json(exclude_none=True).encode()) + 1 for row in own]
    mean = sum(sizes) / len(sizes) if sizes else None
    voted, judged = sum(is_voted_on(row, config.voting.labels) for row in rows), sum(map(is_judged, rows))
    return Rows(split["train"], split["heldout"], voted, judged, mean_bytes=mean)


def _has_incumbent(config: RunConfig) -> bool:
    address = config.registry.address
    if address is None or not (is_s3(address) or Path(address).is_dir()):
        return False
    return Registry(open_store(address)).read_alias(config.name, PRODUCTION) is not None
