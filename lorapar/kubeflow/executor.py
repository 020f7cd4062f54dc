"""Run a task of a pipeline: fetch its inputs from the store by digest, run its stages, write outputs to the store.

A container's command is `lorapar stage NAME --executor-input '{{$}}'`. Tasks pass digests to each other (as
parameters); the store holds the bytes once, by content. A task runs the nodes that its settings name, one after the
other (`lorapar/kubeflow/tasks.py`).

Credentials are the entries of a Secret that is mounted as files, set as variables of this process. Kubeflow writes
every variable that comes from a Secret into a run's node statuses several times, and Argo packs these at 1 MiB. A
mounted Secret is named once. A file that the platform renews later is not read again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorapar import __version__
from lorapar.errors import BadInputError, LoraparError
from lorapar.kubeflow.executor_io import ExecutorInput, ExecutorOutput, read_executor_input
from lorapar.kubeflow.ledger import Ledger, TaskSettings
from lorapar.kubeflow.reporting import keep_plan, print_outcome, run_report, way_of_running
from lorapar.kubeflow.task_outputs import show_metrics, show_node, show_plan
from lorapar.kubeflow.tasks import REUSE_VARIABLE, node_ports, task_named
from lorapar.kubeflow.train_nodes import is_node, nodes_wanted, train_on_nodes, work_as_node
from lorapar.local.execute import executed, new_record
from lorapar.local.folder import StageRecord
from lorapar.local.live import live_in_store
from lorapar.progress import Progress
from lorapar.redaction import redact
from lorapar.stages.contract import Origin, StageCall, StageSettings, is_cached, stage_spec
from lorapar.stages.graph import GRAPH, Node
from lorapar.stages.nodes import Crew
from lorapar.store import fetch_tree, open_store, put_tree

RUN_VARIABLE = "LORAPAR_RUN"
"""The run's id, from the downward API. As a parameter it would be part of KFP's cache key, and nothing would be reused.
Tasks that are never cached still get it as a parameter."""
SCRATCH_VARIABLE = "LORAPAR_SCRATCH"
CREDENTIALS_FOLDER = Path("/run/lorapar")
"""Where the Secret is mounted; empty if the namespace has none."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_OWN = "LORAPAR_"
_OF_THE_STORE = "LORAPAR_S3_"
_NEVER = ("LD_", "PYTHON", "PATH", "HOME")
"""Variables that decide which code runs, or that the pipeline sets itself, are not credentials."""


@dataclass
class Task:
    """A task, and what its nodes have made so far."""

    stage: str
    given: ExecutorInput
    out: ExecutorOutput
    ledger: Ledger
    scratch: Path
    progress: Progress
    command: tuple[str, ...] = ()
    """The input this task was started with; other nodes of a TrainJob start with the same."""
    settings: TaskSettings = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    """Local folders of artifacts by digest: the task's inputs and the outputs made so far."""

    def folder(self, digest: str) -> Path:
        """An artifact's folder, fetched from the store where it is not here yet."""
        if digest not in self.folders:
            manifest = self.ledger.read_manifest(digest)
            folder = self.scratch / "inputs" / digest[:16]
            folder.parent.mkdir(parents=True, exist_ok=True)
            fetch_tree(self.ledger.store, manifest, folder)
            self.folders[digest] = folder
        return self.folders[digest]


def run_task(name: str, text: str, store: str | None, scratch: Path | None, progress: Progress) -> None:
    """Run a task for Kubeflow, in the given store or the one that its input names.

    Raises the LoraparError of its stage, whose line the run's report shows.
    """
    stage_spec(name)
    load_credentials()
    given = read_executor_input(text)
    run = given.text("run", "") or os.environ.get(RUN_VARIABLE, "")
    root = scratch or Path(os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir())
    address = store or given.text("store")
    if name == "report":
        run_report(given, lambda: Ledger(open_store(address), run), root / "report")
        return
    command = ("lorapar", "stage", name, "--executor-input", text, *(("--store", store) if store else ()))
    task = Task(name, given, ExecutorOutput(given), Ledger(open_store(address), run), root, progress, command)
    if is_node():
        (node,) = _nodes(task)
        work_as_node(task.ledger, root / "nodes", lambda crew: _execute(task, *_begun(task, node), crew))
        return
    with _noted(task, name):
        nodes = _nodes(task)
    for node in nodes:
        with _noted(task, node.stage):
            _run_node(task, node)
    show_metrics(task.out, list(task.records.values()))
    task.out.write()
    for folder in task.folders.values():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _noted(task: Task, stage: str) -> Iterator[None]:
    """Keep the line that a stage fails with where the report finds it."""
    try:
        yield
    except LoraparError as error:
        task.ledger.write_error(stage, redact(str(error)))
        raise


def _nodes(task: Task) -> list[Node]:
    """The nodes that this task runs, in their order; `plan` works out itself what follows it."""
    if task.stage == "plan":
        return list(task_named("plan").nodes)
    task.settings = task.ledger.read_settings(task.given.text("settings"))
    return [node for node in GRAPH if node.name in task.settings]


def _run_node(task: Task, node: Node) -> None:
    """Run one node, unless an earlier node decided against it or its outputs are already in the store."""
    if node.when is not None and not task.records[node.when.node].metrics[node.when.output]:
        return
    if node.stage != "plan" and node.name not in task.settings:
        return
    record, settings = _begun(task, node)
    reusable = is_cached(node.stage) and not _anew()
    finished = task.ledger.find_finished(record) if reusable else None
    if finished is not None:
        task.progress.log(f"{node.name}: taken from the store, where an earlier run has put it")
    elif (wanted := nodes_wanted(record)) is not None:
        finished = train_on_nodes(task.ledger, record, wanted, task.command, task.progress)
    else:
        finished = _execute(task, record, settings)
    task.records[node.name] = finished
    show_node(task.out, node, finished, task.ledger, task.folder)
    print_outcome(node.stage, finished.metrics)
    if node.stage == "plan":
        _hand_on(task, finished)


def _anew() -> bool:
    """Whether this run makes everything again (`--no-cache`)."""
    return os.environ.get(REUSE_VARIABLE) == "off"


def _begun(task: Task, node: Node) -> tuple[StageRecord, StageSettings]:
    """The record and settings of a node that has not run yet."""
    settings = _settings(task, node)
    return new_record(node.name, node.stage, settings.model_dump(mode="json"), _digests(task, node)), settings


def _execute(task: Task, record: StageRecord, settings: StageSettings, crew: Crew | None = None) -> StageRecord:
    spec, work = stage_spec(record.stage), task.scratch / f"{record.node}-{record.key[:16]}"
    shutil.rmtree(work / "outputs", ignore_errors=True)
    planned = way_of_running(task.ledger)
    scratch, ledger = _folder(work / "scratch"), task.ledger
    with live_in_store(ledger.store, ledger.run, record.node, scratch, task.progress) as watched:
        call: StageCall[Any] = StageCall(
            settings=settings,
            inputs={name: tuple(map(task.folder, digests)) for name, digests in record.inputs.items()},
            outputs={output: _folder(work / "outputs" / output) for output in spec.outputs},
            scratch=scratch,
            progress=watched,
            origin=replace(Origin.of_environment(), run=task.ledger.run),
            anew=_anew(),
            processes=planned.processes,
            sharding=planned.sharding,
            crew=crew,
        )
        with executed(record, call, task.ledger.store, planned.checkpoint) as finished:
            for output in spec.outputs:
                # Write the manifest last, so that it never names missing files.
                task.ledger.write_manifest(put_tree(task.ledger.store, call.output(output)))
                task.folders[finished.outputs[output]] = call.output(output)
            task.ledger.write_record(finished)
    shutil.rmtree(scratch, ignore_errors=True)
    return finished


def _settings(task: Task, node: Node) -> StageSettings:
    spec = stage_spec(node.stage)
    if node.stage == "plan":
        from lorapar.kubeflow.planned import plan_call

        call = plan_call(task.given)
        planned: StageSettings = spec.settings(
            config=call.config, accelerators=any(takes.count for takes in call.accelerators.values())
        )
        return planned
    try:
        settings: StageSettings = spec.settings.model_validate(task.settings[node.name])
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        raise BadInputError(
            f"settings of {node.name}: {where}: {problem['msg']}; they come from `plan`: both images must hold the "
            f"same version of lorapar (this one is {__version__})"
        ) from None
    return settings


def _digests(task: Task, node: Node) -> dict[str, list[str]]:
    """The digests of each input's artifacts, made by an earlier node of this task or passed to the task."""
    found: dict[str, list[str]] = {}
    for port, edge in node_ports(node):
        if edge.node in task.records:
            digests = [task.records[edge.node].outputs[edge.output]]
        else:
            digests = task.given.texts(port.digest) if port.several else [task.given.text(port.digest)]
        found.setdefault(port.input, []).extend(digests)
    return found


def _hand_on(task: Task, record: StageRecord) -> None:
    """Write the settings of each task by digest, and the plan where the report looks for it."""
    from lorapar.kubeflow.ledger import equal_run
    from lorapar.kubeflow.planned import plan_call, planned_run
    from lorapar.stages.plan_file import read_plan

    plan, call = read_plan(task.folder(record.outputs["plan"])), plan_call(task.given)
    planned = planned_run(plan, call)
    before = equal_run(task.ledger, plan) if plan.config.if_changed else None
    if before is None:
        others = [node.name for node in task_named("plan").nodes if node.stage != "plan"]
        task.settings = {name: plan.sections[name] for name in others}
    else:
        task.progress.log(f"nothing changed since run {before}, so the run ends here")
    show_plan(task.out, plan, planned, task.ledger, before)
    keep_plan(task.ledger, record, plan, planned.lanes, before or "")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def load_credentials(folder: Path = CREDENTIALS_FOLDER) -> list[str]:
    """Set a variable for each entry whose name can be one and is not set yet; returns their names."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name
        own = name.startswith(_OWN) and not name.startswith(_OF_THE_STORE)
        if not _VARIABLE.fullmatch(name) or name.startswith(_NEVER) or own or name in os.environ:
            continue
        text = path.read_text(encoding="utf-8").strip()
        if text:
            os.environ[name] = text
            found.append(name)
    return found
