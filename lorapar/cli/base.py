"""What every command shares: the application, the two consoles, common options and how they become settings."""

from __future__ import annotations

import gc
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lorapar import __version__
from lorapar.cli import complete
from lorapar.cli.command import CommandGroup
from lorapar.errors import ExitCode, LoraparError, stop_behind, stopped

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from lorapar.config import RunConfig
    from lorapar.progress import Progress

_COMMANDS = dict.fromkeys((7, 8, 27, *range(0x80, 0xA0)))
"""What begins a command to the terminal; an error may quote what an endpoint has answered."""
_LOG_WIDTH = 160
"""Columns of a table in a log; rich would take 80, in which the longer cells are broken."""

_SEEN = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables by which a person tells rich that a pipe is a terminal."""

PANELS = {
    "Train": ("doctor", "presets", "schema", "plan", "run", "stage", "votes", "study", "tune"),
    "Look": ("watch", "ui", "report", "partition", "gate", "ask", "chat"),
    "Publish and serve": ("adapters", "serve", "capture", "export", "models", "gc"),
    "Kubeflow": ("submit", "runs", "schedule", "schedules", "compile"),
}
"""The commands as `lorapar --help` shows them, in the order a person meets them."""


class Commands(TyperGroup):
    """Every command; one that is stopped ends with one line and its own exit code, wherever it was."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names in the order of the panels."""
        return [name for names in PANELS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, which knows its panel; None where there is none."""
        command: Any = super().get_command(ctx, cmd_name)
        for title, names in PANELS.items():
            if command is not None and cmd_name in names:
                command.rich_help_panel = title
        return command

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Read the command line, for which typer imports pydantic."""
        with _reporting_stop():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Call the command; from here on there is garbage to look for again, but not in what has been imported."""
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        with _reporting_stop():
            return super().invoke(ctx)


@contextmanager
def _reporting_stop() -> Iterator[None]:
    """Ctrl-C and SIGTERM become StoppedError; typer would end without a word.

    Where nobody reads the output any more (`| head -1`) there is nobody to tell, and the exit code is that of SIGPIPE.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise stopped(stop, "") from None
    except BrokenPipeError as error:
        if not _nobody_reads(sys.stdout):
            raise ConnectionError(str(error)) from error  # of a socket; typer would end without a word
        from lorapar.terminal import discard

        discard(sys.stdout)
        raise SystemExit(ExitCode.UNREAD) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich ends so, with 1
            raise SystemExit(ExitCode.UNREAD) from None
        raise


@contextmanager
def ending(then: str | Callable[[], str]) -> Iterator[None]:
    """What a stopped command says of what is kept, where that is not what is kept of a run."""
    try:
        yield
    except (LoraparError, SystemExit):
        raise
    except BaseException as error:
        if (stop := stop_behind(error)) is None:
            raise
        raise stopped(stop, "", then if isinstance(then, str) else then()) from None


def _nobody_reads(stream: Any) -> bool:
    """Whether a stream is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    except (OSError, ValueError):
        return False


class Screen:
    """Standard output or standard error; rich is imported when it is first used."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    @cached_property
    def console(self) -> Console:
        """For tables and bars; in a log, without a terminal, lines of tables are not wrapped.

        Text stays as it is: brackets and colons in names from outside are no markup of rich.
        """
        from rich.console import Console

        unseen = "COLUMNS" not in os.environ and not any(os.isatty(descriptor) for descriptor in range(3))
        return Console(stderr=self._stderr, width=_LOG_WIDTH if unseen else None, markup=False, emoji=False)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody sees it, as rich decides that; a pipe and a log are known without rich."""
        stream = sys.stderr if self._stderr else sys.stdout
        return (stream.isatty() or any(name in os.environ for name in _SEEN)) and self.console.is_terminal

    def print(self, *values: Any, **options: Any) -> None:
        """As rich's console prints."""
        self.console.print(*values, **options)

    def print_line(self, line: str, colour: str) -> None:
        """One line as it is, coloured at a terminal unless NO_COLOR is set; an error waits for no import.

        Where nobody reads errors any more, the exit code still says how it ended.
        """
        try:
            typer.secho(
                line.translate(_COMMANDS),
                fg=colour,
                err=self._stderr,
                color=False if os.environ.get("NO_COLOR") else None,
            )
        except BrokenPipeError:
            if not self._stderr:
                raise
            from lorapar.terminal import discard

            with suppress(OSError):
                discard(sys.stderr)


app = CommandGroup(
    cls=Commands,
    name="lorapar",
    help="Fine-tune language models the LoRA-PAR way: teachers vote, elements are partitioned, SFT and RL tune.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Screen()
err = Screen(stderr=True)


def print_redacted(line: str) -> None:
    """One line on standard output as it is, without secrets."""
    from lorapar.redaction import redact

    out.print(redact(line), markup=False, highlight=False, soft_wrap=True)


Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings that ship with the package (`lorapar presets`); without --config: demo.",
        autocompletion=complete.presets,
    ),
]

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, on top of the settings.")]
OutDir = Annotated[Path | None, typer.Option("--out", help="Run folder; default: runs/NAME of the settings.")]
Store = Annotated[
    str | None, typer.Option(help="s3://BUCKET/PREFIX or a folder in which runs share finished stages and checkpoints.")
]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.", autocompletion=complete.stages)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; `lorapar schema COMMAND` prints its schema.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run into this folder made.")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(f"lorapar {__version__}", highlight=False)
        raise typer.Exit


def settings_of(
    preset: str | None, file: Path | None, overrides: list[str] | None, store: str | None = None
) -> RunConfig:
    """The settings that --preset, --config, --set and --store come to; the demo's without the first two, which is
    said."""
    from lorapar.config import load_config

    unnamed = preset is None and file is None
    settings = load_config(preset="demo" if unnamed else preset, file=file, overrides=overrides or ())
    if unnamed:
        err.print_line(
            "lorapar: neither --preset nor --config is given: these are the settings of --preset demo", "yellow"
        )
    from lorapar.api import with_store

    return with_store(settings, store)


def show_document(document: BaseModel) -> None:
    """Print what `--json` asked for; a number that is not finite is null there."""
    from lorapar.redaction import redact

    typer.echo(redact(document.model_dump_json(indent=2)))


def out_dir_of(settings: RunConfig, given: Path | None) -> Path:
    """The run folder: as given, or named after the settings."""
    return given if given is not None else Path("runs") / settings.name


def reporter(prefix: str) -> AbstractContextManager[Progress]:
    """A progress on the screen whose lines begin with `prefix`."""
    from lorapar.terminal import BarProgress, LineProgress

    return BarProgress(out.console, prefix) if out.is_terminal else LineProgress(prefix)
