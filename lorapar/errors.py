"""What can go wrong, and the exit code each kind ends with.

Every error a person can cause or fix is a `LoraparError`: one clear line that says what is wrong, where, and what to
do. Anything else that escapes is a bug and keeps its traceback. `docs/exit-codes.md` lists the codes; a test keeps
the two in step.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `lorapar` command. Frozen: scripts and CI jobs branch on them."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    TRAINING_FAILED = 4
    STORAGE = 5
    INTEGRITY = 6
    NOT_BETTER = 10
    STALE = 11
    RUN_FAILED = 12
    UNKNOWN = 13
    CANCELLED = 14
    INTERRUPTED = 130
    UNREAD = 141
    TERMINATED = 143


class LoraparError(Exception):
    """Base of everything a person can cause or fix; the message is one line for that person."""

    exit_code: ExitCode = ExitCode.BUG


class BadInputError(LoraparError):
    """An option, a setting or a piece of data is wrong; the message names it and the nearest right one."""

    exit_code = ExitCode.BAD_INPUT


class UnreachableError(LoraparError):
    """Something outside this machine (hub, object store, endpoint) did not answer or refused."""

    exit_code = ExitCode.UNREACHABLE


class TrainingError(LoraparError):
    """Training or scoring cannot go on: a loss is not finite, nothing would be trained, a frozen element moved."""

    exit_code = ExitCode.TRAINING_FAILED


class StorageError(LoraparError):
    """Writing failed: the disk is full or the folder cannot be written."""

    exit_code = ExitCode.STORAGE


class IntegrityError(LoraparError):
    """An artifact is missing or its bytes are not those its manifest names."""

    exit_code = ExitCode.INTEGRITY


class NotBetterError(LoraparError):
    """An adapter is not shown to be better than the one in production: a result, not a failure."""

    exit_code = ExitCode.NOT_BETTER


class StaleError(LoraparError):
    """What something was decided on has moved meanwhile, such as an alias; nothing was changed."""

    exit_code = ExitCode.STALE


class StoppedError(LoraparError):
    """A person (Ctrl-C) or the system (SIGTERM) stopped the run; what is finished stays and the next run continues."""

    def __init__(self, message: str, *, terminated: bool = False) -> None:
        super().__init__(message)
        self.exit_code = ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwinds like Ctrl-C, ends with its own exit code."""


def stopped(
    stop: KeyboardInterrupt, where: str, then: str = "what is finished is kept, run the same command again to continue"
) -> StoppedError:
    """What to raise once a run is stopped: `where` names what was going on (` during sft`), `then` how to go on."""
    terminated = isinstance(stop, Terminated)
    how = "terminated" if terminated else "interrupted"
    return StoppedError(f"{how}{where}; {then}", terminated=terminated)


def stop_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The stop that a library has turned into an error of its own, as transformers does while it imports."""
    seen: set[int] = set()  # errors may be each other's cause
    while error is not None and not isinstance(error, KeyboardInterrupt) and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return error if isinstance(error, KeyboardInterrupt) else None


def nearest(word: str, known: list[str]) -> str:
    """A ` (did you mean 'x'?)` suffix for the closest known word, or an empty string when none is close."""
    return "".join(f" (did you mean '{one}'?)" for one in nearest_of(word, known))


def nearest_of(word: str, known: list[str]) -> list[str]:
    """The closest known word, or an empty list when none is close."""
    from difflib import get_close_matches

    return get_close_matches(word, known, n=1, cutoff=0.5)
