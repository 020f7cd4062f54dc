"""The `lorapar` command: reads options, calls the rooms below, prints; nothing is computed here.

One file a group of commands; importing it here puts its commands into `app`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import NoReturn

# Read by OpenMP when torch is imported: idle threads that spin slow training threefold on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lorapar.cli import (
    adapters,
    ask,
    capture,
    export,
    kubeflow,
    look,
    run,
    schedules,
    serve,
    storage,
    study,
    versions,
    votes,
    watch,
)
from lorapar.cli.base import app, err
from lorapar.cli.command import UsageProblem, is_usage_problem, usage_line
from lorapar.errors import ExitCode, LoraparError, stop_behind, stopped
from lorapar.redaction import install_redaction, print_traceback, redact
from lorapar.stopping import on_sigterm

__all__ = [
    "adapters",
    "app",
    "ask",
    "capture",
    "export",
    "kubeflow",
    "look",
    "main",
    "run",
    "schedules",
    "serve",
    "storage",
    "study",
    "versions",
    "votes",
    "watch",
]


def main() -> NoReturn:
    """Entry point: errors a person can fix become one line and their exit code; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, on_sigterm)
    install_redaction()
    import lorapar.held_back  # noqa: F401
    from lorapar.places import settle_caches

    # What libraries say to each other's authors is no news for the person at the keyboard.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\.")
    try:
        settle_caches()
        code = app(prog_name="lorapar", standalone_mode=False)
    except LoraparError as error:
        err.print_line(f"lorapar: {redact(str(error))}", "red")
        sys.exit(error.exit_code)
    except Exception as bug:
        if (stop := stop_behind(bug)) is not None:
            end = stopped(stop, "")
            err.print_line(f"lorapar: {end}", "red")
            sys.exit(end.exit_code)
        if is_usage_problem(bug):
            _print_usage(bug)
        _print_refused(bug)
        print_traceback(type(bug), bug, bug.__traceback__)
        sys.exit(ExitCode.BUG)
    sys.exit(code or ExitCode.OK)


def _print_refused(error: Exception) -> None:
    """End with one line where the system refused something, wherever that was; a bug comes back from here."""
    from lorapar.store.artifact import refused_by_system

    if (refused := refused_by_system(error)) is not None:
        err.print_line(f"lorapar: {redact(str(refused))}", "red")
        sys.exit(refused.exit_code)


def _print_usage(problem: UsageProblem) -> NoReturn:
    line = usage_line(problem)
    if line is None:
        problem.show()
    else:
        err.print_line(f"lorapar: {redact(line)}", "red")
    sys.exit(problem.exit_code)
