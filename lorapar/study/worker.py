"""One cell in its own process: an ordinary run whose output goes into the cell's log.

Where the system can (Linux), processes are forked from one that has already imported torch and TRL: a cell of the
preset `tiny` then takes a quarter of the time. Nothing is computed before the fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from lorapar.config import load_config
from lorapar.errors import ExitCode, LoraparError
from lorapar.local.runner import run_local
from lorapar.progress import Progress
from lorapar.redaction import install_redaction, print_traceback, redact
from lorapar.stopping import on_sigterm

_IMPORTED_FIRST = [
    "lorapar.held_back",
    "lorapar.training.trainers",
    "lorapar.training.session",
    "lorapar.training.rl",
    "lorapar.training.sft",
    "lorapar.evaluation",
    "lorapar.adapter",
    "lorapar.basemodel",
]


@dataclass(frozen=True)
class Work:
    """The input of a process; everything in it can be sent to another process."""

    settings: Path
    out: Path
    log: Path
    until: str
    reporter: Callable[[str], AbstractContextManager[Progress]]
    threads: int | None
    """Threads for computing; None: the machine's default."""


def start(work: Work) -> BaseProcess:
    """Start the process of one cell; its exit code is the run's."""
    process: BaseProcess
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED_FIRST)
        process = context.Process(target=_run, args=(work,))
    else:
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(work,))
    process.start()
    return process


def _run(work: Work) -> None:
    """Run the cell. Ctrl-C goes to the study, which sends it SIGTERM: training then finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_sigterm)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\.")
    import lorapar.held_back  # noqa: F401

    _write_into(work.log)
    install_redaction()
    sys.exit(_exit_code(work))


def _exit_code(work: Work) -> int:
    try:
        if work.threads is not None:
            _use_threads(work.threads)
        run_local(load_config(file=work.settings), work.out, work.reporter, until=work.until)
    except LoraparError as error:
        print(f"lorapar: {redact(str(error))}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.TERMINATED
    except Exception as bug:
        print_traceback(type(bug), bug, bug.__traceback__)
        return ExitCode.BUG
    return ExitCode.OK


def _use_threads(threads: int) -> None:
    try:
        import torch
    except ModuleNotFoundError:  # the first stage that needs it reports that
        return
    torch.set_num_threads(threads)


def _write_into(log: Path) -> None:
    """Append all further output, also of libraries, to the cell's log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
