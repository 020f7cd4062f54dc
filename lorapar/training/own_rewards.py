"""Your own reward function: found by its import path, called, awaited, and its answer checked.

Whatever it does (raise, exit, print, return NumPy or torch numbers, be `async def`) becomes one finite number or None a
completion, or a `RewardError` of one line.

The working folder, torch's modes and its random numbers are put back after each call. A reward that seeds torch would
otherwise have every step sample the same completions, and one that switches gradients off would end training.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import math
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.answers import References, all_references, first_reference
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    import asyncio

    from lorapar.training.columns import Columns

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Sequence[str], Sequence[References]], Sequence[float | None]]
ALL_REFERENCES = "all_references"
"""A function with a parameter of this name gets every right answer of each completion, as lists of texts."""
_OF_ROWS = ("prompts", "questions")
"""Parameters that get what is in the rows: chat messages, as TRL gives them, and texts."""
_GIVEN = ("completions", "references", ALL_REFERENCES, *_OF_ROWS)
_LONGEST_REASON = 300
_SLOW_SECONDS = 60.0
"""How long a call may take before one line says so; the next one of that reward says so after ten times as long."""
_patience: dict[str, float] = {}
"""Of rewards that were slow: after how many seconds the next line comes."""
LARGEST = 1e15
"""The largest reward, on either side of zero: its square still fits into float32, with which TRL computes."""


class RewardError(BadInputError):
    """A person's own reward failed or returned something else than it must."""


@dataclass(frozen=True)
class OwnReward:
    """A function `package.module:function` of somebody else."""

    name: str
    function: Callable[..., Any]
    by_name: frozenset[str] = frozenset()
    """Parameters that are passed by name; `completions` and `references` else come first and second."""
    names_itself_when_slow: bool = True

    @property
    def takes_columns(self) -> bool:
        """Whether it asks for more of the rows than references."""
        return not self.by_name.isdisjoint(_OF_ROWS)

    @classmethod
    def find(cls, name: str) -> OwnReward:
        """Import it; raises BadInputError where there is no such function."""
        module_name, _, function_name = name.partition(":")
        try:
            with _prints_to_stderr():
                function = getattr(importlib.import_module(module_name), function_name)
        except ImportError as error:
            raise BadInputError(
                f"rl.rewards: {name} cannot be imported ({error}); {_how_to_import(module_name, function_name)}"
            ) from None
        except AttributeError:
            raise BadInputError(f"rl.rewards: {module_name} has no function called {function_name}") from None
        except (Exception, SystemExit) as error:
            # A person's own module: whatever is wrong in it is theirs to fix, and a line is more use than a traceback.
            raise BadInputError(f"rl.rewards: importing {module_name} fails: {_reason(error)}") from error
        if not callable(function):
            raise BadInputError(f"rl.rewards: {name} is a {type(function).__name__}, not a function")
        if isinstance(function, type):
            raise BadInputError(
                f"rl.rewards: {name} is a class; name an instance of it, such as one made by `mine = {function_name}()`"
            )
        return cls(name, function, _by_name(name, function))

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns | None = None
    ) -> list[float | None]:
        """What it says of each completion: a finite number, or None; raises RewardError.

        A row without a short answer gives it an empty text. `columns` are needed where it `takes_columns`.
        """
        given: dict[str, Any] = {
            "completions": list(completions),
            "references": [first_reference(one) if one else "" for one in references],
            ALL_REFERENCES: [list(all_references(one)) for one in references],
            "prompts": list(columns.prompts) if columns is not None else [],
            "questions": list(columns.questions) if columns is not None else [],
        }
        named = {name: given[name] for name in self.by_name}
        first = [given[name] for name in _GIVEN[:2] if name not in named] if "completions" not in named else []
        return self.checked(lambda: self.function(*first, **named), len(completions))

    def checked(self, call: Callable[[], Any], count: int) -> list[float | None]:
        """What a call of somebody else's function says of `count` completions; raises RewardError."""
        try:
            with _prints_to_stderr(), state_kept(), self._slowness_told(count):
                returned = _listed_values(_awaited(call()))
        except KeyboardInterrupt:  # Ctrl-C and SIGTERM, which come to this thread wherever it is
            raise
        except BaseException as error:
            raised = error.error if isinstance(error, _Raised) else error
            raise RewardError(f"rl.rewards: {self.name} failed: {_reason(raised)}") from raised
        return self._checked(returned, count)

    @contextlib.contextmanager
    def _slowness_told(self, count: int) -> Iterator[None]:
        """Say while a call goes on that it is this reward that everything waits for."""
        if not self.names_itself_when_slow:
            yield
            return
        seconds = _patience.get(self.name, _SLOW_SECONDS)

        def tell() -> None:
            _patience[self.name] = 10 * seconds
            logger.warning(
                "lorapar: rl.rewards: %s has not answered for %g s (completions: %d); everything waits for it",
                *(self.name, seconds, count),
            )

        timer = threading.Timer(seconds, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _checked(self, returned: Any, count: int) -> list[float | None]:
        if not isinstance(returned, Sequence) or isinstance(returned, str | bytes) or len(returned) != count:
            raise RewardError(
                f"rl.rewards: {self.name} must return a list of one number a completion, got {_kind(returned)} for "
                f"{count} completions"
            )
        return [self._number(value) for value in returned]

    def _number(self, value: Any) -> float | None:
        if value is None or type(value).__name__ == "NAType":  # pandas' word for None
            return None
        if not isinstance(value, Real | Decimal) and hasattr(value, "item"):  # one number of NumPy or torch
            with contextlib.suppress(ValueError, RuntimeError):
                value = value.item()
        number = _as_float(value)
        if number is None or not math.isfinite(number):
            raise RewardError(
                f"rl.rewards: {self.name} must return finite numbers, got {_shown(value)}; for a completion "
                "that it does not judge it returns None"
            )
        if abs(number) > LARGEST:
            raise RewardError(
                f"rl.rewards: {self.name} must return numbers of at most {LARGEST:.0e}, got {_shown(value)}: training "
                "squares them in float32"
            )
        return number


def _listed_values(returned: Any) -> Any:
    """What a function gave as a plain list, where it is one number after another; anything else stays as it is."""
    if getattr(returned, "ndim", 1) == 2 and returned.shape[1] == 1:  # a column, as the head of a model gives it
        returned = returned.reshape(-1)
    if hasattr(returned, "tolist"):  # of NumPy, torch and pandas
        return returned.tolist()
    is_row = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
    return list(returned) if is_row or isinstance(returned, Iterator) else returned  # a generator runs only now


def _as_float(value: Any) -> float | None:
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """What a function prints is for its author; standard output is for what a command was asked for."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class _Raised(Exception):
    """Carries what a coroutine raised out of the loop's thread, in which an exit would end the loop."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(_reason(error))
        self.error = error


def _awaited(returned: Any) -> Any:
    """The values of an asynchronous function; several of one list run side by side. Anything else stays as it is."""
    several = isinstance(returned, list | tuple) and any(map(inspect.isawaitable, returned))
    if inspect.isasyncgen(returned):
        returned = _listed(returned)
    elif not (several or inspect.isawaitable(returned)):
        return returned
    import asyncio

    async def guarded() -> Any:
        try:
            found = await asyncio.gather(*map(_value_of, returned)) if several else await returned
            more = isinstance(found, list | tuple) and any(map(inspect.isawaitable, found))
            return list(await asyncio.gather(*map(_value_of, found))) if more else found
        except BaseException as error:
            return _Raised(error)

    future = asyncio.run_coroutine_threadsafe(guarded(), _loop())
    try:
        found = future.result()
    except BaseException:
        future.cancel()
        raise
    if isinstance(found, _Raised):
        raise found
    return found


async def _listed(values: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in values]


async def _value_of(one: Any) -> Any:
    return await one if inspect.isawaitable(one) else one


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for every call of the process: clients that a module keeps open stay bound to the loop they began in."""
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop


def _how_to_import(module: str, function: str) -> str:
    """What to do about a module that is not found; one that is here as a file is named as Python names it."""
    plain = module.removesuffix(".py")
    if not Path(f"{plain}.py").is_file():
        return "install it or set PYTHONPATH"
    return f"{plain}.py lies in this folder: name it {plain}:{function} and set PYTHONPATH=."


def _by_name(name: str, function: Callable[..., Any]) -> frozenset[str]:
    """What a function is given by name, so that nothing lands in a parameter that is called otherwise.

    Raises BadInputError where it needs something else, or does not take the two lists.
    """
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # built in, without a signature
        return frozenset()
    free = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    rest = any(one.kind is one.VAR_POSITIONAL for one in parameters.values())
    places = [key for key, one in parameters.items() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    others = {key for key in (ALL_REFERENCES, *_OF_ROWS) if key in parameters}
    in_order = not others.intersection(places[:2]) and "completions" not in (*places[1:], *_keyword_only(parameters))
    if in_order and (len(places) >= 2 or rest):
        found, filled = others, {*places[:2], *others}
    elif in_order and places and (free or "references" in parameters):
        found = {"references", *others}
        filled = {places[0], *found}
    else:
        found = {key for key in _GIVEN if key in parameters}
        filled = found
    needed = [key for key, one in parameters.items() if one.default is one.empty and one.kind not in _REST]
    missing = [key for key in needed if key not in filled]
    if missing or (not found and len(places) < 2 and not rest):
        lacks = f"needs {', '.join(missing)}" if missing else "takes no completions and references"
        raise BadInputError(
            f"rl.rewards: {name} {lacks}; it is called with completions and references, and by name with "
            f"{', '.join(_GIVEN[2:-1])} and {_GIVEN[-1]} where it has parameters of these names"
        )
    return frozenset(found)


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _keyword_only(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [key for key, one in parameters.items() if one.kind is one.KEYWORD_ONLY]


def _reason(error: BaseException) -> str:
    """What was raised, in one line; of several, such as a task group's, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        shown = _shortened(" ".join(str(error).split()))
    except Exception:  # of a class that cannot be shown
        shown = ""
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def _shown(value: object) -> str:
    try:
        return _shortened(repr(value))
    except Exception:  # of a class that cannot be shown
        return f"a {type(value).__name__}"


def _shortened(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair fits into no file
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _kind(returned: object) -> str:
    if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        return f"{len(returned)} values"
    return f"a {type(returned).__name__}"


@contextlib.contextmanager
def state_kept() -> Iterator[None]:
    """Put back what the block changes of this process; torch's part where torch is loaded before it begins."""
    with _folder_kept(), _torch_kept():
        yield


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)


@contextlib.contextmanager
def _torch_kept() -> Iterator[None]:
    if "torch" not in sys.modules:
        yield
        return
    import torch

    gradients, number_format = torch.is_grad_enabled(), torch.get_default_dtype()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(number_format)
