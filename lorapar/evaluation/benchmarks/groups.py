"""Groups and tags of lm-eval: asked task by task, and put together as lm-eval itself does it.

lm-eval's own `Group` makes the metrics of a group from those of its tasks, weighed by size or not as the group says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapar.config import BenchmarkConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.evaluation.benchmarks.named import (
    Metric,
    NamedTask,
    build_named,
    check_judged,
    drawn,
    limit_remarks,
    row_metric,
)
from lorapar.evaluation.benchmarks.task_files import GroupFile, TaskFile, code_in, find_task, wrong
from lorapar.records import digest_of

if TYPE_CHECKING:
    from lm_eval.api.group import Group


@dataclass(frozen=True)
class NamedGroup:
    """A group or tag whose tasks were built and looked through."""

    config: BenchmarkConfig
    tasks: tuple[NamedTask, ...]
    group: Group
    """lm-eval's own, with its tasks and groups; of a tag one that puts no figures together."""
    metric: Metric | None
    """What the group puts together first, and what says of each row whether it is right where a task has it; None where
    no task has rows that can be judged."""
    digest: str
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the benchmark is called in answers and metrics."""
        return self.config.task

    @property
    def requests(self) -> int:
        """Requests that lm-eval makes."""
        return sum(task.requests for task in self.tasks)

    @property
    def even(self) -> bool:
        """Whether its metrics weigh every task alike, and not every row."""
        return any(not one.weight_by_size for one in self.group.aggregate_metric_list or ())

    def questions(self) -> Iterator[tuple[str, str]]:
        """(id, question) of every row that is asked."""
        for task in self.tasks:
            for row, question in task.questions():
                yield row_name(task, row), question


def row_name(task: NamedTask, row: str) -> str:
    """What a row is called among those of a group."""
    return f"{task.name}/{row}"


def parts(benchmark: NamedTask | NamedGroup) -> tuple[NamedTask, ...]:
    """The tasks that are asked, one or several."""
    return (benchmark,) if isinstance(benchmark, NamedTask) else benchmark.tasks


def load_named(config: BenchmarkConfig, seed: int) -> NamedTask | NamedGroup:
    """Build a task, or those of a group or tag, and look through all rows.

    Raises BadInputError where file, settings or a row are wrong or are not those that `plan` saw, UnreachableError
    where a data set cannot be had, ModuleNotFoundError where lm-eval is not installed.
    """
    found = find_task(config)
    if isinstance(found, TaskFile):
        return build_named(config, found, seed)
    tasks = _shared_out(config, [_member(config, one, found, seed) for one in found.tasks().values()], seed)
    digest = digest_of([config.task, config.limit, _written(found), [task.digest for task in tasks]])
    if config.digest is not None and config.digest != digest:
        raise BadInputError(f"evaluate.benchmarks: the rows of {config.task} are not those that plan saw; plan again")
    rows = sum(len(task.ids) for task in tasks)
    remarks = [f"{config.task}: {len(tasks)} tasks, {rows:,} rows: {', '.join(task.name for task in tasks[:4])}"]
    remarks[0] += ", ..." if len(tasks) > 4 else ""
    remarks += limit_remarks(config, rows)
    group = _tree(config, found, {task.name: task for task in tasks})
    return NamedGroup(config, tuple(tasks), group, _metric(config, found, tasks), digest, tuple(remarks))


def check_group_judged(group: NamedGroup) -> str | None:
    """What a person should hear where a gate compares models on a group; raises BadInputError where it cannot."""
    for task in group.tasks:
        try:
            check_judged(task)
        except BadInputError as error:
            raise _of_member(group.config, task.name, error) from None
    if not group.even:
        return None
    return (
        f"{group.name}: its own metric weighs all tasks equally; the gate compares row by row, and weighs all rows "
        "equally"
    )


def _member(config: BenchmarkConfig, one: TaskFile, group: GroupFile, seed: int) -> NamedTask:
    """A task of a group, asked as the group is; judged by what the group puts together, where the task has that."""
    changed = {"task": one.name, "limit": None, "digest": None, "task_folder": config.task_folder and one.folder}
    try:
        task = build_named(config.model_copy(update=changed), one, seed)
    except (BadInputError, LoraparError) as error:
        raise _of_member(config, one.name, error) from None
    if config.metric is None:
        wanted = (row_metric(task.task, *pair) for pair in _put_together(group))
        task = replace(task, metric=next((pair for pair in wanted if pair is not None), task.metric))
    return task


def _of_member(config: BenchmarkConfig, name: str, error: LoraparError) -> LoraparError:
    message = str(error).removeprefix("evaluate.benchmarks: ").removeprefix(f"{name}: ")
    return type(error)(f"evaluate.benchmarks: {config.task}: {name}: {message}")


def _put_together(group: GroupFile) -> list[tuple[str, str | None]]:
    """Metrics of the group's figures, each with its first filter; of a group without figures those of its groups."""
    listed = group.values.get("aggregate_metric_list") or ()
    found: list[tuple[str, str | None]] = []
    for one in [listed] if isinstance(listed, dict) else listed:
        filters = one.get("filter_list")
        filters = [filters] if isinstance(filters, str) else filters or [None]
        found += [(str(one.get("metric")), each) for each in filters]
    if found:
        return found
    return [pair for member in group.members if isinstance(member, GroupFile) for pair in _put_together(member)]


def _metric(config: BenchmarkConfig, found: GroupFile, tasks: Sequence[NamedTask]) -> Metric | None:
    judged = [task.metric for task in tasks if task.metric is not None]
    names = [config.metric.partition(",")[0]] if config.metric else [name for name, _ in _put_together(found)]
    return next((pair for name in names for pair in judged if pair[0] == name), judged[0] if judged else None)


def _shared_out(config: BenchmarkConfig, tasks: list[NamedTask], seed: int) -> list[NamedTask]:
    """With a limit, each task's share of it by its rows, one at least; drawn by the seed."""
    sizes = [len(task.ids) for task in tasks]
    limit = config.limit
    if limit is None or limit >= sum(sizes):
        return tasks
    if limit < len(tasks):
        raise wrong(config, f"limit is {limit}, and it has {len(tasks)} tasks; ask one row of each at least")
    shares = [max(1, limit * size // sum(sizes)) for size in sizes]
    while sum(shares) != limit:  # rounding: to, or from, those that are furthest from their share
        step = 1 if sum(shares) < limit else -1
        able = [place for place, size in enumerate(sizes) if 0 < shares[place] + step <= size]
        place = min(able, key=lambda one: step * (shares[one] - limit * sizes[one] / sum(sizes)))
        shares[place] += step
    return [
        replace(task, asked=drawn(size, share, seed)) for task, size, share in zip(tasks, sizes, shares, strict=True)
    ]


def _tree(config: BenchmarkConfig, found: GroupFile, tasks: dict[str, NamedTask]) -> Group:
    from lm_eval.api.group import Group

    values = {key: value for key, value in found.values.items() if key != "task"}
    if code_in(values):
        raise wrong(
            config,
            f"{found.path}: group {found.name} names a function to aggregate by; lm-eval aggregates by mean only",
        )
    try:
        group = Group.from_config({**values, "group": found.name})
    except Exception as error:  # dataclasses of lm-eval raise TypeError and ValueError on what they do not know
        raise wrong(config, f"{found.path}: aggregate_metric_list of group {found.name}: {error}") from None
    for member in found.members:
        group.add(tasks[member.name].task if isinstance(member, TaskFile) else _tree(config, member, tasks))
    return group


def _written(found: GroupFile) -> object:
    members = [one.name if isinstance(one, TaskFile) else _written(one) for one in found.members]
    return [found.name, repr(sorted(found.values.items(), key=lambda item: item[0])), members]
