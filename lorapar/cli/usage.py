"""A misspelt command or option as one line, like every other error, instead of typer's box."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard, runtime_checkable

from lorapar.errors import nearest


@runtime_checkable
class UsageProblem(Protocol):
    """What typer raises for a command line it cannot read. Its class is click's, which typer carries privately."""

    exit_code: int

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
    context = getattr(problem, "ctx", None)
    command = context.command_path if context is not None else "lorapar"
    option = getattr(problem, "option_name", None)
    if option is not None and type(problem).__name__ == "NoSuchOption":
        what = f"{command} has no option {option}{_nearest_option(option, context)}"
    else:
        what = " ".join(problem.format_message().split()).rstrip(".")
    return f"{what}; `{command} --help` lists what there is"


def _nearest_option(option: str, context: Any) -> str:
    """The closest option, compared without the dashes, which all of them share; nothing where none is like it."""
    parameters = context.command.params if context is not None else ()
    known = [name.removeprefix("--") for parameter in parameters for name in parameter.opts if name.startswith("--")]
    close = nearest(option.lstrip("-"), known)
    return close.replace("'", "'--", 1)
