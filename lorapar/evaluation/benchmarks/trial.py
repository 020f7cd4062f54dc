"""Try how a task judges answers, before anything is trained: which metrics say of a row whether it is right.

A task with a function of its own (`process_results`, or a class) says so nowhere. So it is handed made-up answers to
its first rows (the right one, more than it, none), and what it makes of them is looked at. That also fetches what it
would otherwise fetch when all is answered, such as a metric from the hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import Task

BY_ROW = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""lm-eval's own metrics that say of each row whether it is right; the others are metrics of all rows together."""
_ROWS = 4
_CHOICES = 6


class CannotJudgeError(Exception):
    """What a task needs to judge answers is not here."""


def judges_rows(task: Task, metric: str) -> bool:
    """Whether a metric is 1 or 0 of every row, as far as trial tells; raises CannotJudgeError."""
    if not _is_own(task):
        return metric in BY_ROW
    found = _values_of_trial(task).get(metric, [])
    return all(isinstance(one, int | float) and one in (0, 1) for one in found)


def is_sure(task: Task, metric: str) -> bool:
    """Whether a metric that judges rows was 1 of some; one that is 0 throughout may be any number of other answers."""
    return not _is_own(task) or metric in BY_ROW or 1 in _values_of_trial(task).get(metric, [])


def try_judging(task: Task) -> None:
    """Raise CannotJudgeError where a task's own way of judging fails for want of something that is not here."""
    if _is_own(task):
        _values_of_trial(task)


def _is_own(task: Task) -> bool:
    from lm_eval.api.task import ConfigurableTask

    return callable(task.config.process_results) or type(task) is not ConfigurableTask


@lru_cache(maxsize=4)
def _values_of_trial(task: Task) -> Mapping[str, list[Any]]:
    """By metric what the task makes of made-up answers; without those that it fails on."""
    found: dict[str, list[Any]] = {}
    for doc, results in _made_up(task):
        try:
            for metric, value in task.process_results(doc, results).items():
                found.setdefault(str(metric), []).append(_number(value))
        except Exception as error:  # of a stranger's code, about an answer that no model may ever give
            _require_here(error)
    for metric, put_together in task.aggregation().items():
        try:
            put_together([value for value in found.get(metric, ()) if value is not None])
        except Exception as error:
            _require_here(error)
    return found


def _made_up(task: Task) -> Iterator[tuple[Mapping[str, Any], list[Any]]]:
    """The first rows, each with responses as a model would give them to the task's requests."""
    for doc in islice(task.eval_docs, _ROWS):
        target = task.doc_to_target(doc)
        right = str(target[0] if isinstance(target, list) and target else target).strip()
        requests = task.construct_requests(doc, "", metadata=(task.config.task, 0, 1))
        asked = [one.request_type for one in (requests if isinstance(requests, list) else [requests])]
        if "generate_until" in asked:
            for text in (right, f"{right} or another", ""):
                yield doc, [_response(kind, text, place == 0) for place, kind in enumerate(asked)]
        else:
            for best in range(min(len(asked), _CHOICES)):
                yield doc, [_response(kind, "", place == best) for place, kind in enumerate(asked)]


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
