"""What the tasks of pipelines write to the store: manifests by digest, records of how each was made, and equal runs.

manifests/<digest>.json              the manifest of an artifact, named by its digest
settings/<digest>.json               the settings of a task's nodes; `plan` writes them and hands on the digest
settings/<digest>.yaml               the settings of runs; `submit` and `schedule` write them
records/<address>.json               the record of the last task with these settings and inputs
runs/<run>/records/<address>.json    the record of a task that ran in this run, not one from KFP's cache
runs/<run>/live/<node>.json          what a task is doing, for `lorapar watch`
runs/<run>/errors/<stage>.txt        the one line with which a stage failed
runs/<run>/report.html, metrics.json, summary.md    the results, at a fixed place
unchanged/<digest>.json              the run that succeeded with these settings, data, model, code and images, and the
                                     version it left in production

KFP gives an exit handler no outputs of other tasks, so the report finds a run's outputs by walking the graph. The
plan's settings and the digests of inputs give the address of a record, which names the digests of the outputs. Most
recurring runs find nothing new, so a run that would only repeat an earlier one stops after `plan`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lorapar import __version__
from lorapar.errors import BadInputError, IntegrityError, UnreachableError
from lorapar.local.folder import StageRecord
from lorapar.own_code import code_digest, own_code_digest
from lorapar.records import digest_of, json_text
from lorapar.redaction import redact
from lorapar.stages.contract import STAGE_NAMES
from lorapar.stages.plan_file import Plan
from lorapar.store import Manifest, NotFoundError, ObjectStore, open_store
from lorapar.store.tree import CONTENT

TaskSettings = dict[str, dict[str, Any]]
"""The settings of each node of a task, by the node's name."""

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def record_address(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Sequence[str]]) -> str:
    """The address of a task's record: from its settings and the digests of its inputs, not from its code."""
    listed = {name: list(digests) for name, digests in inputs.items()}
    return digest_of({"stage": stage, "settings": dict(settings), "inputs": listed})


class Ledger:
    """Reads and writes these objects for one run; without a run, only those that all runs share."""

    def __init__(self, store: ObjectStore, run: str = "") -> None:
        if run and not _RUN.fullmatch(run):
            raise BadInputError(f"run '{run}': not the name of a run; KFP's are letters, digits and dashes")
        self.store = store
        self.run = run

    def write_manifest(self, manifest: Manifest) -> None:
        """Write a manifest under its digest."""
        self.store.write(f"manifests/{manifest.digest}.json", manifest.model_dump_json().encode())

    def read_manifest(self, digest: str) -> Manifest:
        """The manifest with this digest; raises IntegrityError where it is missing or has another digest."""
        if not _DIGEST.fullmatch(digest):
            raise IntegrityError(
                f"'{digest}' is not the digest of an artifact; the task before this one has not named one"
            )
        where = f"{self.store.address}/manifests/{digest}.json"
        try:
            manifest = Manifest.model_validate_json(self.store.read(f"manifests/{digest}.json"))
        except NotFoundError:
            raise IntegrityError(
                f"{where}: the artifact is not in the store any more, though Kubeflow remembers the task that made it; "
                "submit the run with --no-cache, or delete that cached run"
            ) from None
        except ValidationError as error:
            raise IntegrityError(f"{where}: not a manifest ({error.errors()[0]['msg']})") from None
        if manifest.digest != digest:
            raise IntegrityError(f"{where}: its content has the digest {manifest.digest}; restore it or run again")
        return manifest

    def write_settings(self, settings: TaskSettings) -> str:
        """Write the settings of a task's nodes; returns their digest, by which the task finds them."""
        digest = digest_of(settings)
        self.store.write(f"settings/{digest}.json", json_text(settings).encode())
        return digest

    def read_settings(self, digest: str) -> TaskSettings:
        """The settings with this digest; raises IntegrityError where they are missing or have another digest."""
        if not _DIGEST.fullmatch(digest):
            raise BadInputError(f"--executor-input: settings: '{digest}' is not a digest; compile the pipeline again")
        where = f"{self.store.address}/settings/{digest}.json"
        try:
            settings: TaskSettings = json.loads(self.store.read(f"settings/{digest}.json"))
        except NotFoundError:
            raise IntegrityError(
                f"{where}: what `plan` wrote is not in the store any more; start the run again"
            ) from None
        except ValueError:
            settings = {}
        if digest_of(settings) != digest:
            raise IntegrityError(f"{where}: not the settings that `plan` wrote; start the run again")
        return settings

    def write_record(self, record: StageRecord) -> None:
        """Write a finished task's record, for this run and for runs that take the task from the cache."""
        address = record_address(record.stage, record.settings, record.inputs)
        data = record.model_dump_json(indent=2).encode()
        self.store.write(f"records/{address}.json", data)
        if self.run:
            self.store.write(f"runs/{self.run}/records/{address}.json", data)

    def find_record(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Sequence[str]],
        own: frozenset[str] | None = None,
    ) -> tuple[StageRecord | None, bool]:
        """The record of a task, and whether it ran in this run; None where it has finished in no run.

        `own` are the keys of `own_records`, for a caller that looks for many.
        """
        address = record_address(stage, settings, inputs)
        key = f"runs/{self.run}/records/{address}.json"
        found = self._record(key) if self.run and (own is None or key in own) else None
        if found is not None:
            return found, True
        return self._record(f"records/{address}.json"), False

    def own_records(self) -> frozenset[str]:
        """The keys of the records of tasks that ran in this run."""
        return frozenset(info.key for info in self.store.list(f"runs/{self.run}/records/")) if self.run else frozenset()

    def find_finished(self, wanted: StageRecord) -> StageRecord | None:
        """A record with equal settings, inputs and code whose outputs are all still in the store."""
        found, _ = self.find_record(wanted.stage, wanted.settings, wanted.inputs)
        if found is None or found.key != wanted.key:
            return None
        try:
            manifests = [self.read_manifest(digest) for digest in found.outputs.values()]
        except IntegrityError:
            return None
        keys = {f"{CONTENT}/{entry.sha256}" for manifest in manifests for entry in manifest.files.values()}
        return found.model_copy(update={"node": wanted.node}) if keys <= set(self.store.known(sorted(keys))) else None

    def write_error(self, stage: str, line: str) -> None:
        """Write the line that a stage failed with. Raises nothing: a write that fails must not hide that line."""
        if self.run:
            try:
                self.store.write(f"runs/{self.run}/errors/{stage}.txt", redact(line).encode())
            except (UnreachableError, OSError):
                return

    def errors(self) -> dict[str, str]:
        """The lines that stages of this run failed with, by stage, including stages that succeeded at a retry."""
        prefix = f"runs/{self.run}/errors/"
        listed = sorted(self.store.list(prefix), key=lambda info: info.modified) if self.run else []
        return {
            info.key.removeprefix(prefix).removesuffix(".txt"): self.store.read(info.key).decode(errors="replace")
            for info in listed
        }

    def write_result(self, name: str, data: bytes) -> None:
        """Write a result to its fixed place."""
        self.store.write(f"runs/{self.run}/{name}", data)

    def read_result(self, name: str) -> bytes | None:
        """A result of this run; None where it was not written."""
        try:
            return self.store.read(f"runs/{self.run}/{name}")
        except NotFoundError:
            return None

    def _record(self, key: str) -> StageRecord | None:
        try:
            return StageRecord.model_validate(json.loads(self.store.read(key)))
        except (NotFoundError, ValidationError, json.JSONDecodeError):
            return None


def equal_run(ledger: Ledger, plan: Plan) -> str | None:
    """An earlier equal run; None where something differs or `production` has moved since."""
    try:
        kept = json.loads(ledger.store.read(equal_key(plan)))
    except (NotFoundError, ValueError):
        return None
    same = kept["production"] == _production(plan)
    return str(kept["run"]) if same else None


def keep_equal(ledger: Ledger, key: str, verdict: Mapping[str, Any] | None, promoted: bool) -> None:
    """Note that a run succeeded, and which version it left in production: its own, or the one its gate saw.

    `key` is what `equal_key` returned when the run was planned.
    """
    if verdict is None or "incumbent" not in verdict:
        return
    version = verdict["candidate"] if promoted else verdict["incumbent"]
    kept = {"run": ledger.run, "production": version["version"] if version else None}
    ledger.store.write(key, json_text(kept).encode())


def equal_key(plan: Plan) -> str:
    """The key under which a run notes its success. The settings of every stage hold digests of model and data."""
    code = {stage: code_digest(f"lorapar.stages.{stage}") for stage in STAGE_NAMES}
    own = {node: own_code_digest(settings) for node, settings in plan.sections.items()}
    made_of = {"settings": _sections(plan), "version": __version__, "code": code, "own": own}
    return f"unchanged/{digest_of({**made_of, 'images': os.environ.get('LORAPAR_IMAGES', '')})}.json"


def _sections(plan: Plan) -> dict[str, Any]:
    """The settings of the stages. The version that `model.adapter` found is left out where it is this adapter's own
    production: that moves with every better run, and is compared separately."""
    from lorapar.registry import PRODUCTION, parse_reference, start

    adapter = plan.config.model.adapter
    if adapter is None or start.kind_of(adapter) is not start.Kind.REGISTRY:
        return plan.sections
    asked = parse_reference(adapter)
    if (asked.name, asked.alias) != (plan.config.name, PRODUCTION):
        return plan.sections
    moving = ("model", "adapter_source")
    return {
        node: {**values, moving[0]: {key: value for key, value in values[moving[0]].items() if key != moving[1]}}
        if moving[0] in values
        else values
        for node, values in plan.sections.items()
    }


def _production(plan: Plan) -> int | None:
    from lorapar.registry import PRODUCTION, Registry

    address = plan.config.registry.address
    record = Registry(open_store(address)).read_alias(plan.config.name, PRODUCTION) if address else None
    return record.version if record is not None else None
