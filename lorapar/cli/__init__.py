"""The `lorapar` command: reads options, calls the rooms below, prints; nothing is computed here.

One file a group of commands; importing it puts its commands into `app`. A process that runs one command imports that
one's file only, and typer reads no other command's signature: both took half of the time until a mistake was reported.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

# Read by OpenMP when torch is imported: idle threads that spin slow training threefold on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lorapar.cli import base
from lorapar.cli.base import err
from lorapar.cli.command import UsageProblem, is_usage_problem, usage_line
from lorapar.errors import ExitCode, LoraparError, stop_behind, stopped
from lorapar.redaction import install_redaction, print_traceback, redact
from lorapar.stopping import on_sigterm

if TYPE_CHECKING:
    from lorapar.cli.base import app
    from lorapar.cli.command import CommandGroup

__all__ = ["FILES", "app", "application", "main"]

FILES = {
    "adapters": ("adapters",),
    "ask": ("ask", "chat"),
    "capture": ("capture",),
    "export": ("export",),
    "kubeflow": ("compile", "runs", "schedule", "submit"),
    "look": ("doctor", "partition", "presets", "report", "schema"),
    "run": ("gate", "plan", "run", "stage"),
    "schedules": ("schedules",),
    "serve": ("serve",),
    "storage": ("gc", "models"),
    "study": ("study", "tune"),
    "versions": ("adapters",),
    "votes": ("votes",),
    "watch": ("ui", "watch"),
}
"""Which file has which commands; both files of `adapters` have some of its own."""


def application(words: Sequence[str]) -> CommandGroup:
    """What the words of a command line call: an application with that command, with all of them where it names none.

    For help alone, commands have their names and texts, and no options.
    """
    files = [name for name, commands in FILES.items() if words and words[0] in commands]
    for name in files or FILES:
        importlib.import_module(f"lorapar.cli.{name}")
    return base.app.listing() if list(words) in (["--help"], ["-h"]) else base.app


def __getattr__(name: str) -> Any:
    """`lorapar.cli.app`, with every command in it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return application(())


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
        code = application(sys.argv[1:])(prog_name="lorapar", standalone_mode=False)
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
