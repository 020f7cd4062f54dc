"""Tasks of lm-eval by their name: built from their file, their rows looked through before anything is trained."""

from __future__ import annotations

import importlib.metadata
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from lorapar.config import BenchmarkConfig
from lorapar.errors import BadInputError, nearest
from lorapar.evaluation.benchmarks.building import built_task, first_line
from lorapar.evaluation.benchmarks.known_texts import ROLLING, known_texts
from lorapar.evaluation.benchmarks.quiet import silent
from lorapar.evaluation.benchmarks.task_files import Code, TaskFile, code_in, wrong
from lorapar.evaluation.benchmarks.trial import BY_ROW, CannotJudgeError, is_sure, judges_rows, only_zero, try_judging
from lorapar.records import digest_of
from lorapar.store import file_sha256

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_TEMPLATE = re.compile(r"\{[{%]")
Metric = tuple[str, str]
"""A metric and the filter that answers pass before it."""


@dataclass(frozen=True)
class NamedTask:
    """A task of lm-eval that was built and looked through."""

    config: BenchmarkConfig
    task: Task
    asked: tuple[int, ...]
    """Places of the rows that are asked, in the order of the data."""
    ids: tuple[str, ...]
    """Of every row its name, the same in every evaluation of the same rows."""
    metric: Metric | None
    """What says of each row whether it is right; None where the task has only metrics of all rows together."""
    digest: str
    """sha256 of everything that is asked."""
    remarks: tuple[str, ...] = ()
    """What a person should hear about the rows, one line each."""

    @property
    def name(self) -> str:
        """What the benchmark is called in answers and metrics."""
        return self.config.task

    @property
    def kind(self) -> str:
        """generate_until, multiple_choice, loglikelihood or loglikelihood_rolling."""
        return str(self.task.OUTPUT_TYPE)

    @property
    def longest_answer(self) -> int:
        """Tokens that the task lets a model write; none where it writes nothing."""
        return int((self.task.config.generation_kwargs or {}).get("max_gen_toks", 256)) if self.writes else 0

    @property
    def writes(self) -> bool:
        """Whether answers are generated."""
        return self.kind == "generate_until"

    def questions(self) -> Iterator[tuple[str, str]]:
        """(id, text) of every text that a row that is asked can be known by; a cell that several rows share is none."""
        docs = self.task.eval_docs
        with template_box(self.config):
            yield from known_texts(self.task, {self.ids[place]: docs[place] for place in self.asked})

    @property
    def requests(self) -> int:
        """Requests that lm-eval makes."""
        docs = self.task.eval_docs
        if self.kind != "multiple_choice":
            return len(self.asked)
        return sum(len(self.task.doc_to_choice(docs[place])) for place in self.asked)


def build_named(config: BenchmarkConfig, found: TaskFile, seed: int) -> NamedTask:
    """Build a task and look through its rows.

    Raises BadInputError where file, settings or a row are wrong or are not those that `plan` saw, UnreachableError
    where its data set cannot be had, ModuleNotFoundError where lm-eval is not installed.
    """
    with silent(), template_box(config):
        task = built_task(config, found)
        docs = list(task.eval_docs)
        _check_columns(config, found, task)
        _check_rows(config, task, docs)
        task.set_fewshot_seed(seed)
        digest = _digest(config, found, task, docs)
        metric = _judging_metric(config, task)
    if config.digest is not None and config.digest != digest:
        raise BadInputError(f"evaluate.benchmarks: the rows of {config.task} are not those that plan saw; plan again")
    remarks = (*limit_remarks(config, len(docs)), *_zero_remarks(config, task, metric))
    asked = drawn(len(docs), config.limit, seed)
    return NamedTask(config, task, asked, _ids(docs), metric, digest, remarks)


def limit_remarks(config: BenchmarkConfig, rows: int) -> list[str]:
    """What is said where a benchmark has more rows than the settings want, or fewer."""
    if config.limit is None or config.limit == rows:
        return []
    if config.limit > rows:
        return [f"{config.task}: limit is {config.limit:,}, but there are {rows:,} rows: all are asked"]
    return [f"{config.task}: limit is {config.limit:,}, so {config.limit:,} of its {rows:,} rows are asked"]


def drawn(rows: int, limit: int | None, seed: int) -> tuple[int, ...]:
    """Places of the rows that are asked, drawn by the seed, in order."""
    return tuple(sorted(random.Random(seed).sample(range(rows), min(limit or rows, rows))))


def check_judged(task: NamedTask) -> None:
    """Raise BadInputError where a gate could not compare models on this task row by row."""
    if task.metric is None:
        has = ", ".join(metrics_of(task.task))
        raise wrong(
            task.config,
            f"the gate names it, but its metrics ({has}) do not say of each row whether it is right; leave it out of "
            f"gate.measures and gate.max_loss_of, or set metric to one that does, such as {', '.join(BY_ROW[:2])}",
        )


@contextmanager
def template_box(config: BenchmarkConfig) -> Iterator[None]:
    """Within the block templates of a person's own task files can call nothing that Jinja does not hold for safe."""
    if config.task_folder is None or config.trust_code:
        yield
        return
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = utils.env
    boxed = SandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    boxed.filters.update(plain.filters)
    utils.env = boxed
    try:
        yield
    finally:
        utils.env = plain


def _check_columns(config: BenchmarkConfig, found: TaskFile, task: Task) -> None:
    """Refuse a column that the rows lack: lm-eval would ask, or expect, its name as the text of every row."""
    columns = [str(one) for one in getattr(task, "features", None) or ()]
    if not columns or getattr(task, "prompt", None) is not None:
        return
    writes = task.OUTPUT_TYPE == "generate_until"
    for key in ("doc_to_text", "doc_to_target"):
        value = getattr(task.config, key)
        outside = found.folder is not None or key in {**found.changed, **config.overrides}
        is_text = isinstance(value, str) and value.strip() and not value.isdigit() and not _TEMPLATE.search(value)
        if not outside or not is_text or value in columns:
            continue
        unused = key == "doc_to_target" and task.config.process_results is not None
        if not unused and (writes or value.isidentifier()):
            raise wrong(
                config,
                f"{found.path}: {key} is '{value[:60]}', neither a column{nearest(value, columns)} nor a template, so "
                f"it would be the same in every row (columns: {', '.join(columns)})",
            )


def _check_rows(config: BenchmarkConfig, task: Task, docs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that lm-eval would ask as nonsense, or fail on when everything is trained."""
    if not docs:
        raise wrong(config, "its data set has no row to ask")
    for number, doc in enumerate(docs, 1):
        try:
            fault = _fault(task, doc)
        except Exception as error:  # templates and functions of the task file fail in their own ways
            fault = first_line(error)
        if fault:
            raise wrong(config, f"row {number}: {fault} (columns: {', '.join(map(str, doc))})")
    wanted = int(task.config.num_fewshot or 0)
    if wanted:
        shots = task.fewshot_docs()
        # lm-eval draws one more and leaves out the row that is asked.
        if shots is None or len(shots) < wanted + (len(shots) == len(docs)):
            raise wrong(config, f"it has fewer worked examples than few_shot {wanted}; lower it or add rows")


def _fault(task: Task, doc: Mapping[str, Any]) -> str | None:
    text, target = task.doc_to_text(doc), task.doc_to_target(doc)
    if task.OUTPUT_TYPE != "multiple_choice":
        return None if task.OUTPUT_TYPE == ROLLING or str(text).strip() else "its question (doc_to_text) is empty"
    choices = task.doc_to_choice(doc)
    if not isinstance(choices, list) or len(choices) < 2:
        return f"its choices (doc_to_choice) are {choices!r:.60}; give a list of two or more"
    right = text if getattr(task, "multiple_input", 0) else target
    for one in right if isinstance(right, list) else [right]:
        known = one in choices if isinstance(one, str) else isinstance(one, Integral) and 0 <= int(one) < len(choices)
        if not known:
            return f"its right answer (doc_to_target) is {one!r:.60}, which is not among its {len(choices)} choices"
    return None


def _judging_metric(config: BenchmarkConfig, task: Task) -> Metric | None:
    """`_metric`; raises BadInputError where the task could judge no answer here."""
    try:
        try_judging(task)
        return _metric(config, task)
    except CannotJudgeError as error:
        raise wrong(
            config,
            f"its answers cannot be judged here: {first_line(error.__cause__ or error)}; make that available, or name "
            "another task",
        ) from None


def _zero_remarks(config: BenchmarkConfig, task: Task, metric: Metric | None) -> list[str]:
    """What is said where rows get no verdict because a metric may be a score, not a yes or no."""
    wanted = metrics_of(task) if config.metric is None else [config.metric.partition(",")[0]]
    zeros = [name for name in wanted if metric is None and only_zero(task, name)]
    if not zeros:
        return []
    return [
        f"{config.task}: its rows are not told right from wrong: {', '.join(zeros)} gave 0 to every answer tried, the "
        "right one too, and may be a score"
    ]


def _metric(config: BenchmarkConfig, task: Task) -> Metric | None:
    metrics, filters = metrics_of(task), _filters(task)
    if config.metric is None:
        found = [pair for one in metrics if (pair := row_metric(task, one)) is not None]
        return next((pair for pair in found if is_sure(task, pair[0])), found[0] if found else None)
    name, comma, chosen = config.metric.partition(",")
    if name not in metrics:
        raise wrong(config, f"the task has no metric '{name}'{nearest(name, metrics)}; it has: {', '.join(metrics)}")
    if comma and chosen not in filters:
        raise wrong(
            config, f"metric: the task has no filter '{chosen}'{nearest(chosen, filters)}; it has: {', '.join(filters)}"
        )
    return row_metric(task, name, chosen if comma else None)


def row_metric(task: Task, name: str, filtered: str | None = None) -> Metric | None:
    """A metric behind a filter (the first where none is named), where the task has both and it judges rows."""
    filters = _filters(task)
    if (
        name not in metrics_of(task)
        or (filtered is not None and filtered not in filters)
        or not judges_rows(task, name)
    ):
        return None
    return name, filters[0] if filtered is None else filtered


def metrics_of(task: Task) -> list[str]:
    """Names of the metrics that a task counts."""
    return [str(name) for name in task.aggregation()]


def _filters(task: Task) -> list[str]:
    return [str(one.name) for one in getattr(task, "_filters", ())] or ["none"]


def _ids(docs: Sequence[Any]) -> tuple[str, ...]:
    """A digest of each row; the second of two equal rows gets a number."""
    seen: dict[str, int] = {}
    names = []
    for doc in docs:
        name = digest_of(_plain(doc))[:16]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(names)


def _digest(config: BenchmarkConfig, found: TaskFile, task: Task, docs: Sequence[Any]) -> str:
    files = {path for path in (found.path, found.changed_in) if path is not None and found.folder is not None}
    code = sorted(one for path in files for one in path.parent.rglob("*.py")) if code_in(found.values) else []
    shots = list(task.fewshot_docs() or ()) if task.config.num_fewshot else []
    return digest_of(
        {
            "lm_eval": importlib.metadata.version("lm_eval"),
            "settings": [config.task, config.overrides, config.few_shot, config.limit],
            "file": _plain(found.values),
            "code": [file_sha256(path) for path in code],
            "rows": [_plain(list(docs)), _plain(shots)],
        }
    )


def _plain(value: Any) -> Any:
    """A value of rows or task files as JSON; what JSON lacks by its text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Code):
        return {"function": value.name}
    return value if value is None or isinstance(value, str | int | bool) else repr(value)
