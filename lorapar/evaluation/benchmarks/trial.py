"""Try how a task judges answers, before anything is trained: which metrics say of a row whether it is right.

A task with a function of its own (`process_results`, or a class) says so nowhere. So it is handed made-up answers to
its first rows (the right one, more than it, none), and what it makes of them is looked at. That also fetches what it
would otherwise fetch when all is answered, such as a metric from the hub. A metric that is 0 of all these answers may
as well be a score that no row has in full, so it counts only where its name says that it tells right from wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import Task

BY_ROW = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""lm-eval's own metrics that say of each row whether it is right; the others are metrics of all rows together."""
_TELLING = re.compile(r"(\w+_)?(acc|em|exact|exact_match)|accuracy")
"""Names of metrics that say of a row whether it is right, though no made-up answer was."""
_ROWS = 4
_CHOICES = 6


class CannotJudgeError(Exception):
    """What a task needs to judge answers is not here."""


def judges_rows(task: Task, metric: str) -> bool:
    """Whether a metric is 1 or 0 of every row, as far as trial tells; raises CannotJudgeError."""
    if not _is_own(task):
        return metric in BY_ROW
    found = _values_of_trial(task).get(metric, [])
    yes_or_no = bool(found) and all(isinstance(one, int | float) and one in (0, 1) for one in found)
    return yes_or_no and (is_sure(task, metric) or _TELLING.fullmatch(metric) is not None)


def is_sure(task: Task, metric: str) -> bool:
    """Whether a metric that judges rows was 1 of some; one that is 0 throughout may be any number of other answers."""
    return not _is_own(task) or metric in BY_ROW or 1 in _values_of_trial(task).get(metric, [])


def only_zero(task: Task, metric: str) -> bool:
    """Whether a task of its own code made 0 of every made-up answer by a metric."""
    found = _values_of_trial(task).get(metric, []) if _is_own(task) else []
    return bool(found) and all(isinstance(one, int | float) and one == 0 for one in found)


def try_judging(task: Task) -> None:
    """Raise CannotJudgeError where a task's own code fails on every answer, or for want of what is not here."""
    if _is_own(task):
        _values_of_trial(task)


def _is_own(task: Task) -> bool:
    from lm_eval.api.task import ConfigurableTask

    return callable(task.config.process_results) or type(task) is not ConfigurableTask


@lru_cache(maxsize=4)
def _values_of_trial(task: Task) -> Mapping[str, list[Any]]:
    """By metric what the task makes of made-up answers, without those that it fails on; it may not fail on all."""
    found: dict[str, list[Any]] = {}
    tried = list(_tried(task))
    faults = [one for one in tried if isinstance(one, Exception)]
    for error in faults:
        _require_here(error)
    if faults and len(faults) == len(tried):
        raise CannotJudgeError(str(faults[0])) from faults[0]
    for values in (one for one in tried if not isinstance(one, Exception)):
        for metric, value in values.items():
            found.setdefault(str(metric), []).append(_number(value))
    for metric, put_together in task.aggregation().items():
        try:
            put_together([value for value in found.get(metric, ()) if value is not None])
        except Exception as error:
            _require_here(error)
    return found


def _tried(task: Task) -> Iterator[Mapping[str, Any] | Exception]:
    """What the task makes of each made-up answer to its first rows, or the error of a stranger's code."""
    for doc in islice(task.eval_docs, _ROWS):
        try:
            made_up = _made_up(task, doc)
        except Exception as error:
            yield error
            continue
        for results in made_up:
            try:
                yield dict(task.process_results(doc, results))
            except Exception as error:  # about an answer that no model may ever give
                yield error


def _made_up(task: Task, doc: Mapping[str, Any]) -> list[list[Any]]:
    """For a row responses as models would give them to the task's requests."""
    target = task.doc_to_target(doc)
    right = str(target[0] if isinstance(target, list) and target else target).strip()
    requests = task.construct_requests(doc, "", metadata=(task.config.task, 0, 1))
    asked = [one.request_type for one in (requests if isinstance(requests, list) else [requests])]
    if "generate_until" in asked:
        texts = (right, f"{right} or another", "")
        return [[_response(kind, text, place == 0) for place, kind in enumerate(asked)] for text in texts]
    tried = range(min(len(asked), _CHOICES))
    return [[_response(kind, "", place == best) for place, kind in enumerate(asked)] for best in tried]


def _response(kind: str, text: str, likely: bool) -> Any:
    if kind == "generate_until":
        return text
    likelihood = -1.3 if likely else -4.0
    return likelihood if kind == "loglikelihood_rolling" else (likelihood, likely)


def _number(value: Any) -> Any:
    """A plain number of whatever holds one; everything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


def _require_here(error: Exception) -> None:
    """Raise where an error is about a package, a file or a server; NLTK tells of its files by a bare LookupError."""
    if isinstance(error, ImportError | OSError) or type(error) is LookupError:
        raise CannotJudgeError(str(error)) from error
