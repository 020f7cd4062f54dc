"""One stage as a task of a pipeline: inputs from the store by digest, the stage itself, outputs to the store.

A container's command is `lorapar stage NAME --executor-input '{{$}}' --store ADDRESS`. What passes between tasks are
digests (parameters) and small manifests (artifacts); the bytes lie once in the store, by content.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorapar import __version__
from lorapar.errors import BadInputError, LoraparError
from lorapar.kubeflow.executor_input import ExecutorInput, read_executor_input
from lorapar.kubeflow.executor_output import ExecutorOutput, flat_metrics
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.plan_page import plan_page
from lorapar.kubeflow.planned import Lane, plan_call, plan_outputs
from lorapar.kubeflow.ports import LOOPED_STAGE, digest_parameter, input_ports, output_port, settings_parameter
from lorapar.kubeflow.reporting import checkpoint_settings, keep_plan, run_report, say_outcome
from lorapar.kubeflow.shown import show
from lorapar.local.execute import executed, new_record
from lorapar.local.folder import StageRecord
from lorapar.progress import Progress
from lorapar.records import digest_of
from lorapar.redaction import redact
from lorapar.stages.contract import Origin, StageCall, StageSettings, StageSpec, stage_spec
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import read_plan
from lorapar.store import Manifest, fetch_tree, open_store, put_tree

RUN_VARIABLE = "LORAPAR_RUN"
"""The run's id, by the downward API: as a parameter it would be in KFP's cache key and nothing would be reused."""
SCRATCH_VARIABLE = "LORAPAR_SCRATCH"


@dataclass(frozen=True)
class Task:
    """What a call needs to know beside the stage."""

    name: str
    given: ExecutorInput
    ledger: Ledger
    scratch: Path
    progress: Progress


def run_task(name: str, text: str, store: str, scratch: Path | None, progress: Progress) -> None:
    """Run a stage for Kubeflow; raises the stage's own LoraparError, whose line the run's report will show."""
    spec = stage_spec(name)
    given = read_executor_input(text)
    run = given.text("run", "") or os.environ.get(RUN_VARIABLE, "")
    root = scratch or Path(os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir())
    if name == "report":
        run_report(given, lambda: Ledger(open_store(store), run), root / "report")
        return
    task = Task(name, given, Ledger(open_store(store), run), root, progress)
    try:
        _run(task, spec)
    except LoraparError as error:
        task.ledger.write_error(name, redact(str(error)))
        raise


def _run(task: Task, spec: StageSpec[Any]) -> None:
    settings = _settings(task, spec)
    digests = _digests(task)
    record = new_record(task.name, task.name, settings.model_dump(mode="json"), digests)
    work = task.scratch / f"{task.name}-{record.key[:16]}"
    shutil.rmtree(work / "outputs", ignore_errors=True)
    call = StageCall(
        settings=settings,
        inputs=_fetched(task, digests, work / "inputs"),
        outputs=_made(work / "outputs", spec.outputs),
        scratch=_folder(work / "scratch"),
        progress=task.progress,
        origin=replace(Origin.of_environment(), run=task.ledger.run),
    )
    with executed(record, call, task.ledger.store, checkpoint_settings(task.ledger)) as finished:
        manifests = {output: _kept(task, call.output(output)) for output in spec.outputs}
        task.ledger.write_record(finished)
        _tell(task, spec, finished, manifests, call)
    shutil.rmtree(work, ignore_errors=True)


def _settings(task: Task, spec: StageSpec[Any]) -> StageSettings:
    if task.name == "plan":
        planned: StageSettings = spec.settings.model_validate({"config": plan_call(task.given).config})
        return planned
    try:
        settings: StageSettings = spec.settings.model_validate_json(task.given.text("settings"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        raise BadInputError(
            f"settings of {task.name}: {where}: {problem['msg']}; they come from `plan`: both images must hold the "
            f"same version of lorapar (this one is {__version__})"
        ) from None
    return settings


def _digests(task: Task) -> dict[str, list[str]]:
    """The digests of each input's artifacts, in the order of the ports."""
    found: dict[str, list[str]] = {}
    for port in input_ports(task.name):
        found.setdefault(port.input, []).extend(task.given.texts(port.digest))
    return found


def _fetched(task: Task, digests: Mapping[str, list[str]], root: Path) -> dict[str, tuple[Path, ...]]:
    fetched = {}
    for name, listed in digests.items():
        folders = [root / f"{name}-{number}" for number in range(len(listed))]
        for digest, folder in zip(listed, folders, strict=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            fetch_tree(task.ledger.store, task.ledger.read_manifest(digest), folder)
        fetched[name] = tuple(folders)
    return fetched


def _kept(task: Task, folder: Path) -> Manifest:
    """Put a sealed output into the store; its manifest last, so that it never names what is not there."""
    manifest = put_tree(task.ledger.store, folder)
    task.ledger.write_manifest(manifest)
    return manifest


def _tell(
    task: Task, spec: StageSpec[Any], record: StageRecord, manifests: Mapping[str, Manifest], call: StageCall[Any]
) -> None:
    """Digests as parameters, manifests and lineage as artifacts, and what a person should see."""
    out = ExecutorOutput(task.given)
    for output, manifest in manifests.items():
        port = output_port(task.name, output)
        out.write_file(port, manifest.model_dump_json(indent=2) + "\n")
        out.set_metadata(port, _lineage(record, manifest))
        out.set_parameter(digest_parameter(task.name, output), manifest.digest)
    if len(spec.outputs) != 1:
        out.set_parameter("digest", digest_of({name: manifest.digest for name, manifest in manifests.items()}))
    for decision in spec.decisions:
        out.set_parameter(decision, bool(record.metrics[decision]))
    out.set_metadata("metrics", flat_metrics(record.metrics))
    out.write_file("metrics", json.dumps(flat_metrics(record.metrics), indent=2) + "\n")
    if task.name == "plan":
        _tell_plan(task, out, record, call)
    show(out, task.name, call.outputs)
    say_outcome(task.name, record.metrics)
    out.write()


def _tell_plan(task: Task, out: ExecutorOutput, record: StageRecord, call: StageCall[Any]) -> None:
    """Each stage's settings as a parameter, and the plan where the report will look for it."""
    plan = read_plan(call.output("plan"))
    parameters = plan_outputs(plan, plan_call(task.given))
    for name, value in parameters.items():
        out.set_parameter(name, value)
    lanes = {
        node.name: [Lane.model_validate(lane) for lane in parameters[settings_parameter(node.name)]]
        for node in GRAPH
        if node.stage == LOOPED_STAGE
    }
    out.write_file("summary", plan_page(plan.config, lanes))
    keep_plan(task.ledger, record, plan, {name: [lane.settings for lane in some] for name, some in lanes.items()})


def _lineage(record: StageRecord, manifest: Manifest) -> dict[str, Any]:
    """Where an artifact comes from, in words that fit a table: what it holds, and digests of all that made it."""
    return {
        "digest": manifest.digest,
        "kind": manifest.kind,
        "files": len(manifest.files),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "stage": record.stage,
        "lorapar_version": record.version,
        "code_digest": record.code,
        "settings_digest": digest_of(record.settings),
        "input_digests": {name: list(digests) for name, digests in record.inputs.items()},
        "seconds": record.seconds,
        "peak_memory_bytes": record.peak_memory_bytes,
    }


def _made(root: Path, outputs: tuple[str, ...]) -> dict[str, Path]:
    return {output: _folder(root / output) for output in outputs}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
