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
    gate,
    kubeflow,
    look,
    run,
    schedules,
    serve,
    stage,
    storage,
    study,
    tune,
    ui,
    versions,
    votes,
    watch,
)
from lorapar.cli.base import app, err
from lorapar.cli.usage import UsageProblem, is_usage_problem, usage_line
from lorapar.errors import ExitCode, LoraparError
from lorapar.redaction import install_redaction, redact, say_traceback
from lorapar.stopping import on_sigterm

__all__ = [
    "adapters",
    "app",
    "ask",
    "capture",
    "export",
    "gate",
    "kubeflow",
    "look",
    "main",
    "run",
    "schedules",
    "serve",
    "stage",
    "storage",
    "study",
    "tune",
    "ui",
    "versions",
    "votes",
    "watch",
]


def main() -> NoReturn:
    """Entry point: errors a person can mend become one line and their exit code; a bug keeps its traceback."""
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
        err.say(f"lorapar: {redact(str(error))}", "red")
        sys.exit(error.exit_code)
    except Exception as bug:
        if is_usage_problem(bug):
            _say_usage(bug)
        _say_refused(bug)
        say_traceback(type(bug), bug, bug.__traceback__)
        sys.exit(ExitCode.BUG)
    sys.exit(code or ExitCode.OK)


def _say_refused(error: Exception) -> None:
    """End with one line where the system refused something, wherever that was; a bug comes back from here."""
    from lorapar.store.artifact import refused_by_system

    if (told := refused_by_system(error)) is not None:
        err.say(f"lorapar: {redact(str(told))}", "red")
        sys.exit(told.exit_code)


def _say_usage(problem: UsageProblem) -> NoReturn:
    line = usage_line(problem)
    if line is None:
        problem.show()
    else:
        err.say(f"lorapar: {redact(line)}", "red")
    sys.exit(problem.exit_code)
