"""What lies where in a run folder.

config.yaml                 the settings of the last run, every default written out
report.html metrics.json adapter/ lineage.json    what people come for
live.json                   what the run is doing, for `lorapar watch`
stages/<node>/<output>/     finished artifacts, each with its manifest
stages/<node>/stage.json    the record of how they came about
work/<node>-<key>/          unfinished work; the next run with the same settings and inputs goes on from it
cache/                      votes and answers by content: a run over grown data asks only about what is new
edits.csv                   labels that a person has set (`lorapar votes import`)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lorapar.errors import BadInputError, IntegrityError, StorageError
from lorapar.records import digest_of
from lorapar.stages.contract import Metrics
from lorapar.store import refuse_other_content, verify, write_atomically
from lorapar.store.file_system import locked

LOCK = ".lock"


@contextmanager
def working_alone(root: Path, what: str) -> Iterator[None]:
    """Keep others out of a folder where its file system has locks; BadInputError for the second `what` in it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(root / LOCK, wait=False))
        except BlockingIOError:
            raise BadInputError(
                f"{root}: another {what} is working in this folder; wait for it or choose another --out"
            ) from None
        yield


class StageRecord(BaseModel):
    """How the outputs of a node came about."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    node: str
    stage: str
    version: str
    settings: dict[str, Any]
    inputs: dict[str, list[str]]
    """Digests of the input artifacts."""
    code: str
    """Digest of the stage's own code."""
    outputs: dict[str, str] = {}
    """Digests of what it made."""
    metrics: Metrics = {}
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    finished: str = ""

    @property
    def key(self) -> str:
        """Digest of everything the outputs depend on: equal key, equal outputs."""
        return digest_of({"stage": self.stage, "settings": self.settings, "inputs": self.inputs, "code": self.code})


class RunFolder:
    """Paths and records of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def node(self, name: str) -> Path:
        """The folder of a finished node."""
        return self.root / "stages" / name

    @property
    def cache(self) -> Path:
        """What is remembered by content, whatever the settings of the run."""
        return self.root / "cache"

    @property
    def edits(self) -> Path:
        """Labels that a person has set; there is no such file where nobody has."""
        return self.root / "edits.csv"

    def artifact(self, node: str, output: str) -> Path:
        """The folder of one output of a finished node."""
        return self.node(node) / output

    def work(self, record: StageRecord) -> Path:
        """Where a node works; the same settings and inputs find it again."""
        return self.root / "work" / f"{record.node}-{record.key[:16]}"

    def record(self, node: str) -> StageRecord | None:
        """The record of a finished node; None where it has not finished or the record cannot be read."""
        path = self.node(node) / "stage.json"
        try:
            return StageRecord.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def records(self) -> dict[str, StageRecord]:
        """Records of all finished nodes by name."""
        folder = self.root / "stages"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found = {name: self.record(name) for name in names}
        return {name: record for name, record in found.items() if record is not None}

    def damage(self, record: StageRecord) -> str | None:
        """What is wrong with a finished node's files, in words; None when every byte is as recorded."""
        for output, digest in record.outputs.items():
            try:
                if verify(self.artifact(record.node, output)).digest != digest:
                    return f"{self.artifact(record.node, output)} is not what its record names"
            except IntegrityError as error:
                return str(error).removesuffix("; run its stage again")
        return None

    def write_record(self, folder: Path, record: StageRecord) -> None:
        """Write a node's record, last and atomically."""
        write_atomically(folder / "stage.json", record.model_dump_json(indent=2) + "\n")

    def forget(self) -> None:
        """Drop every finished and unfinished node: `--fresh`; what is remembered stays until it is asked again."""
        for name in ("stages", "work"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def require_own(self) -> None:
        """Raise BadInputError where the folder holds things and no run has worked in it: a run replaces files."""
        complaint = (
            f"--out {self.root}: is not empty and is no run folder of lorapar; give another --out or an empty one"
        )
        refuse_other_content(self.root, complaint, lambda _: self._is_of_a_run())

    def _is_of_a_run(self) -> bool:
        """A run leaves its empty lock file in its first second; a copy without hidden files has records."""
        lock = self.root / LOCK
        return (lock.is_file() and lock.stat().st_size == 0) or bool(self.records())

    def make(self) -> None:
        """Make the folder; raises StorageError where it cannot be made, BadInputError where it is not a run's."""
        self.require_own()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"--out {self.root}: cannot be made ({error.strerror}); choose another folder") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one run at a time works in a folder, where its file system has locks; BadInputError for the second."""
        self.make()
        with working_alone(self.root, "run"):
            yield
