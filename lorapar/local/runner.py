"""Run the graph on this machine: in order, resumable, one process, one run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorapar.config import SYSTEMS, RunConfig, dump_config
from lorapar.errors import BadInputError, nearest, stopped
from lorapar.local.edits import with_edits
from lorapar.local.execute import executed, forget_unfinished
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.local.forecast import log_forecast
from lorapar.local.live import end_live, live_in_folder
from lorapar.local.needs import (
    adapter_targets,
    ahead_of,
    check_context,
    check_keys_of_servers,
    check_storage,
    require_packages,
    require_sandbox,
)
from lorapar.local.pinned import pin, pinned_text, unpin, with_pinned
from lorapar.local.preview import changes, expected_record
from lorapar.local.results import results_so_far, tracked_summary, write_results
from lorapar.local.shared import SharedStages
from lorapar.progress import Progress
from lorapar.stages.contract import Origin, StageCall, is_cached, stage_spec
from lorapar.stages.graph import GRAPH, Node, node_names
from lorapar.stages.plan import node_settings
from lorapar.stages.plan_file import read_plan
from lorapar.store import open_store, replace_folder, storage_errors, verify, write_atomically
from lorapar.store.s3_headers import export_settings
from lorapar.tracking import TrackedRun, Tracking, tracked

Reporter = Callable[[str], AbstractContextManager[Progress]]
"""Makes the Progress of a node from its name."""


@dataclass(frozen=True)
class _Run:
    """What one run does, where it works, and what it shares with others."""

    config: RunConfig
    last: str
    """The node it ends with."""
    folder: RunFolder
    shared: SharedStages | None
    """Finished stages in the store of the settings; None without a store."""
    tracking: Tracking | None = None
    anew: bool = False
    """Whether models are asked again: `--fresh`."""


def run_local(
    config: RunConfig, out: Path, reporter: Reporter, *, until: str | None = None, fresh: bool = False
) -> RunFolder:
    """Run every node (up to and including `until`) into `out`; finished nodes with unchanged inputs are reused.

    With `store.address` finished nodes and unfinished work are in that store too, and are taken from there.

    Raises the LoraparError of the node that failed; what was finished stays and the next call continues.
    """
    last = last_node(until)
    export_settings(config.store.model_dump())
    config = with_registry(config, out)
    folder = RunFolder(out)
    folder.make()  # first: a registry beside it that cannot be made would be blamed for what --out says
    check_storage(config)
    shared = SharedStages(open_store(config.store.address), anew=fresh) if config.store.address else None
    with storage_errors(out), folder.locked():
        if fresh:
            folder.forget()
        run = _Run(with_edits(config, folder), last, folder, shared, anew=fresh)
        with _tracked(run, reporter) as tracking:
            try:
                ran = _run_nodes(replace(run, tracking=tracking), reporter)
                if last == GRAPH[-1].name:
                    unpin(folder)
            except BaseException:
                # Ctrl-C included: people look at the report to see how far a run came.
                results_so_far(folder)
                end_live(folder.root)
                raise
            write_results(folder, ran)
            end_live(folder.root)
    return folder


@contextmanager
def _tracked(run: _Run, reporter: Reporter) -> Iterator[Tracking | None]:
    """The run in the experiment trackers of its settings, which see it as one however often it is started again."""
    config = run.config
    if not config.report.trackers:
        yield None
        return

    def log(text: str) -> None:
        with reporter("trackers:") as progress:
            progress.log(text)

    settings = dump_config(config.model_copy(update={"report": type(config.report)()}))
    known = TrackedRun.of(config.name, run.folder.root, settings)
    with tracked(
        config.report.trackers,
        known,
        log,
        lambda finished: tracked_summary(run.folder, config, finished=finished),
    ) as tracking:
        yield tracking


def with_registry(config: RunConfig, out: Path) -> RunConfig:
    """The settings with the registry's address filled in: by default the folder `registry` beside the run folder."""
    if config.registry.address is not None:
        return config
    address = str(out.resolve().parent / "registry")
    return config.model_copy(update={"registry": config.registry.model_copy(update={"address": address})})


def _run_nodes(run: _Run, reporter: Reporter) -> set[str]:
    """Names of the nodes that ran, as against those reused."""
    folder = run.folder
    ran: set[str] = set()
    config = with_pinned(run.config, folder)
    sections: dict[str, dict[str, Any]] = {"plan": {"config": config.model_dump(mode="json")}}
    for position, node in enumerate(GRAPH, 1):
        with reporter(f"[{position}/{len(GRAPH)}] {node.name}:") as progress:
            if node.stage == "plan" and (line := pinned_text(run.config, folder)) is not None:
                progress.log(line)
            if _run_node(node, sections[node.name], run, progress):
                ran.add(node.name)
            if node.name == "tally":
                _look_ahead(sections, run, progress)
        if node.stage == "plan":
            resolved = read_plan(folder.artifact("plan", "plan"))
            write_atomically(folder.root / "config.yaml", dump_config(resolved.config))
            pin(config, resolved.config, folder)
            sections |= node_settings(resolved.config)
        if node.name == run.last:
            break
    _share_all(run)
    return ran


def _look_ahead(sections: dict[str, dict[str, Any]], run: _Run, progress: Progress) -> None:
    """Say what the training that is about to run will leave out of the rows that the vote assigned."""
    folder = run.folder
    assigned = folder.record("tally")
    stages = [
        name
        for name in ("sft", "rl")
        if comes_to(name, run.last) and not _trained_on(folder.record(name), sections[name], assigned)
    ]
    if stages:
        tally = {system: folder.artifact("tally", system) for system in SYSTEMS}
        config = read_plan(folder.artifact("plan", "plan")).config
        log_forecast(config, tally, stages, progress)


def _trained_on(record: StageRecord | None, settings: dict[str, Any], assigned: StageRecord | None) -> bool:
    """Whether a stage of training has finished with these settings and these rows."""
    if record is None or assigned is None or record.settings != settings:
        return False
    return all(record.inputs[system] == [assigned.outputs[system]] for system in SYSTEMS)


def _run_node(node: Node, settings: dict[str, Any], run: _Run, progress: Progress) -> bool:
    """Run one node unless it can be reused; returns whether it ran."""
    folder = run.folder
    if not wanted(node, folder):
        shutil.rmtree(folder.node(node.name), ignore_errors=True)  # of an earlier run
        progress.log(f"not run: {node.when.node if node.when else ''} decided against it")
        return False
    record = expected_record(node, settings, folder)
    old = folder.record(node.name)
    if old is not None and is_cached(node.stage):
        if old.key == record.key:
            damage = folder.damage(old)
            if damage is None:
                if folder.work(record).exists():
                    _forget_unfinished(record, run, progress)
                progress.log("reused, nothing it depends on has changed")
                return False
            progress.log(f"runs again: {damage}")
        else:
            progress.log(f"runs again: {changes(old, record)}")
    with _alone(node, record, run, progress):
        return not _taken(node, record, run, progress) and _made_here(node, record, run, progress)


def _alone(node: Node, record: StageRecord, run: _Run, progress: Progress) -> AbstractContextManager[None]:
    """Of several runs that come to the same stage at once, one makes it and the others take it from the store."""
    if run.shared is None or not is_cached(node.stage):
        return nullcontext()
    return run.shared.alone(record, progress)


def _made_here(node: Node, record: StageRecord, run: _Run, progress: Progress) -> bool:
    """Ask for what is needed late, then run the node; returns True."""
    folder = run.folder
    if is_cached(node.stage):  # others run in any case, also where all that follows can be reused
        ahead = ahead_of(node, run.last)
        # The plan's settings: a model of the hub may be in a wheel or a mirror, which only they say.
        planned = read_plan(folder.artifact("plan", "plan")).config
        require_packages(ahead, planned)
        require_sandbox(ahead, planned)
        check_keys_of_servers(ahead, planned)
        check_context(planned)
        adapter_targets(ahead, planned)
    try:
        _execute(node, record, run, progress)
    except KeyboardInterrupt as stop:
        raise stopped(stop, f" during {node.name}") from None
    return True


def wanted(node: Node, folder: RunFolder) -> bool:
    """Whether the condition of a node holds; the node that decides has finished."""
    if node.when is None:
        return True
    record = folder.record(node.when.node)
    return record is not None and record.metrics[node.when.output] != 0


def _taken(node: Node, record: StageRecord, run: _Run, progress: Progress) -> bool:
    """Take a node's outputs from the store where another run has made them."""
    if run.shared is None or not is_cached(node.stage):
        return False
    made = _made(run.folder, record)
    found = run.shared.take(record, made, progress)
    if found is None:
        return False
    run.folder.write_record(made, found)
    replace_folder(made, run.folder.node(node.name))
    _forget_unfinished(record, run, progress)
    progress.log(f"taken from {run.shared.store.address}, where nothing it depends on differs")
    return True


def _forget_unfinished(record: StageRecord, run: _Run, progress: Progress) -> None:
    """Remove what a run leaves behind that is killed when a node is finished and its checkpoints are still there."""
    if run.shared is not None:
        forget_unfinished(run.shared.store, record, progress)
    shutil.rmtree(run.folder.work(record), ignore_errors=True)


def _share_all(run: _Run) -> None:
    """Once more what the store did not take at the time, and what was made before there was one; raises this time."""
    if run.shared is not None:
        for record in run.folder.records().values():
            if is_cached(record.stage):
                run.shared.keep(record, run.folder.node(record.node))


def _made(folder: RunFolder, record: StageRecord) -> Path:
    """An empty folder in the node's own for what it makes."""
    made = folder.work(record) / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def _execute(node: Node, record: StageRecord, run: _Run, progress: Progress) -> None:
    spec = stage_spec(node.stage)
    folder, work, made = run.folder, run.folder.work(record), _made(run.folder, record)
    for output in spec.outputs:
        (made / output).mkdir()
    (work / "scratch").mkdir(exist_ok=True)
    with live_in_folder(folder.root, node.name, work / "scratch", progress) as watched:
        call = StageCall(
            settings=spec.settings.model_validate(record.settings),
            inputs=_verified_inputs(node, folder),
            outputs={output: made / output for output in spec.outputs},
            scratch=work / "scratch",
            progress=watched,
            origin=replace(Origin.of_environment(), run=str(folder.root.resolve()), tracking=run.tracking),
            cache=folder.cache,
            anew=run.anew,
            processes=run.config.processes,
            sharding=run.config.sharding,
            judged=comes_to("gate", run.last),
            rewarded=comes_to("rl", run.last),
        )
        store = run.shared.store if run.shared is not None else None
        with executed(record, call, store, run.config.checkpoint) as finished:
            folder.write_record(made, finished)
            replace_folder(made, folder.node(node.name))
            if run.shared is not None and is_cached(node.stage):
                run.shared.try_keep(finished, folder.node(node.name), progress)
    shutil.rmtree(work, ignore_errors=True)
    progress.log(f"done in {finished.seconds:.1f} s" + _summary(finished.metrics))


def comes_to(name: str, last: str) -> bool:
    """Whether a run that ends with the node `last` reaches another one."""
    names = [node.name for node in GRAPH]
    return names.index(last) >= names.index(name)


def _verified_inputs(node: Node, folder: RunFolder) -> dict[str, tuple[Path, ...]]:
    inputs = {name: tuple(folder.artifact(e.node, e.output) for e in edges) for name, edges in node.inputs.items()}
    for paths in inputs.values():
        for path in paths:
            verify(path)
    return inputs


def _summary(metrics: dict[str, float]) -> str:
    parts = [f"{name} {value:.4g}" for name, value in list(metrics.items())[:5] if name != "seconds"]
    return f"  ({', '.join(parts)})" if parts else ""


def last_node(until: str | None) -> str:
    """The node to stop after; a stage that is called more than once stops after its last call."""
    if until is None:
        return GRAPH[-1].name
    if until in node_names():
        return until
    calls = [node.name for node in GRAPH if node.stage == until]
    if calls:
        return calls[-1]
    known = node_names()
    raise BadInputError(f"--until: no stage is called '{until}'{nearest(until, known)}; known: {', '.join(known)}")
