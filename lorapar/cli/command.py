"""Where this command line differs from typer: values it refuses, and one line for a command line it cannot read.

A value is refused that a library below would take for something else than the person meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import copy
from inspect import getdoc
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar, cast, get_args, get_type_hints, runtime_checkable

import typer
from typer.core import TyperCommand
from typer.models import CommandInfo

from lorapar.errors import BadInputError, nearest

Function = TypeVar("Function", bound=Callable[..., Any])

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Command(TyperCommand):
    """A command whose values are looked at as they were typed: `Path("")` is the current folder, `Path("s3://b")` one
    called `s3:` in it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raise BadInputError for an empty value and for an address where a local path belongs."""
        try:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        except Exception as problem:
            if is_usage_problem(problem) and problem.ctx is None:
                problem.ctx = ctx  # the parser leaves out whose option it was, so its help could not be named
            raise
        annotations = get_type_hints(self.callback)
        for parameter in self.params:
            annotation = annotations.get(str(parameter.name))
            is_path = Path in (annotation, *get_args(annotation))
            for value in _texts(given.get(str(parameter.name))):
                _refuse_empty(parameter, value)
                if is_path:
                    _refuse_address(parameter, value)
        return super().parse_args(ctx, args)


class CommandGroup(typer.Typer):
    """A typer application all of whose commands are such."""

    def command(self, *names: Any, **options: Any) -> Callable[[Function], Function]:
        """As typer's."""
        return super().command(*names, **{"cls": Command, **options})

    def listing(self) -> CommandGroup:
        """A copy for its list of commands: they have names and texts, and typer reads no signature."""
        found = copy(self)
        found.registered_commands = [_listed(info) for info in self.registered_commands]
        found.registered_groups = [copy(info) for info in self.registered_groups]
        for info in found.registered_groups:
            group = info.typer_instance = cast(typer.Typer, copy(info.typer_instance))
            group.registered_commands = []
        return found


def _listed(info: CommandInfo) -> CommandInfo:
    """A command without its options, that does nothing."""
    found = copy(info)
    found.help = info.help or getdoc(info.callback)
    found.callback = lambda: None
    return found


def _texts(value: object) -> Iterable[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, str)]


def _refuse_empty(parameter: Any, value: str) -> None:
    if not value.strip() and parameter.default != "":
        raise BadInputError(f"{_label(parameter)}: is empty; give a value, or leave it out where it may be")


def _refuse_address(parameter: Any, value: str) -> None:
    if _ADDRESS.match(value):
        raise BadInputError(f"{_label(parameter)}: {value} is an address, and this is a path on this machine")


def _label(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name).strip("[]").upper()


@runtime_checkable
class UsageProblem(Protocol):
    """What typer raises for a command line it cannot read. Its class is click's, which typer carries privately."""

    exit_code: int
    ctx: Any
    """The command that was called; None where the parser did not say."""

    def format_message(self) -> str:
        """What is wrong, in words."""

    def show(self) -> None:
        """Print it as typer would."""


def is_usage_problem(error: BaseException) -> TypeGuard[UsageProblem]:
    """Whether an exception says that the command line cannot be read."""
    return isinstance(error, UsageProblem)


def usage_line(problem: UsageProblem) -> str | None:
    """One line that says what is wrong, the nearest right word, and where help is; None where help itself is shown."""
    if type(problem).__name__ == "NoArgsIsHelpError":
        return None
    context = problem.ctx
    command = context.command_path if context is not None else "lorapar"
    return f"{_what_is_wrong(problem, command, context)}; `{command} --help` lists what there is"


def _what_is_wrong(problem: UsageProblem, command: str, context: Any) -> str:
    """typer's words with the command's name and its arguments as its help writes them."""
    kind, words = type(problem).__name__, " ".join(problem.format_message().split()).rstrip(".")
    parameter, option = getattr(problem, "param", None), getattr(problem, "option_name", None)
    if kind == "NoSuchOption":
        close = _nearest_option(str(option), context)
        after = "; options of a command come after its name" if context is not None and context.parent is None else ""
        return f"{command} has no option {option}{close}{after}"
    if kind == "MissingParameter":
        return f"{command} needs {_label(parameter)}"
    if kind == "BadParameter" and parameter is not None:
        reason = str(getattr(problem, "message", words)).rstrip(".")
        return f"{command}: {_label(parameter)}: {reason[:1].lower()}{reason[1:]}"
    if found := re.fullmatch(r"No such command (\S+?)\.?(?: Did you mean (.*)\?)?", words):
        return f"{command} has no command {found[1]}" + (f" (did you mean {found[2]}?)" if found[2] else "")
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", words):
        return f"{command} takes {_arguments(context)}; too much: {found[1]}"
    if option is not None and "requires an argument" in words:
        return f"{command}: {option} needs a value"
    return f"{command}: {words[:1].lower()}{words[1:]}"


def _arguments(context: Any) -> str:
    """The arguments of a command by their names."""
    parameters = context.command.params if context is not None else ()
    names = [_label(parameter) for parameter in parameters if parameter.param_type_name == "argument"]
    return " ".join(names) if names else "no argument"


def _nearest_option(option: str, context: Any) -> str:
    """The closest option, compared without the dashes, which all of them share; nothing where none is like it."""
    parameters = context.command.params if context is not None else ()
    known = [name.removeprefix("--") for parameter in parameters for name in parameter.opts if name.startswith("--")]
    close = nearest(option.lstrip("-"), known)
    return close.replace("'", "'--", 1)
