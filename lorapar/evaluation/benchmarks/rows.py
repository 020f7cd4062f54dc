"""Rows of a benchmark: from the hub, a local file or an S3 address; checked, named, drawn by the seed."""

from __future__ import annotations

import gzip
import random
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.data.readers import RawRow, read_rows
from lorapar.errors import BadInputError, UnreachableError
from lorapar.evaluation.benchmarks.groups import NamedGroup, check_group_judged, load_named
from lorapar.evaluation.benchmarks.kinds import Row, checked_row, name_of
from lorapar.evaluation.benchmarks.named import NamedTask, check_judged, limit_remarks
from lorapar.records import digest_of

HUB = {
    "gsm8k": ("openai/gsm8k", "main", "test", "train"),
    "mmlu": ("cais/mmlu", "all", "test", "dev"),
    "humaneval": ("openai/openai_humaneval", None, "test", None),
}
"""Of each benchmark: data set, its configuration, the split that is asked, and the one worked examples come from."""

_QUESTION = {"humaneval": "prompt"}
"""The column that asks, where it is not `question`."""


@dataclass(frozen=True)
class BenchmarkRows:
    """What one benchmark asks. Every row has a field `id`, the same in every evaluation of the same rows."""

    config: BenchmarkConfig
    rows: tuple[Row, ...]
    shots: tuple[Row, ...]
    """Worked examples to draw from: `few_shot` of them, for mmlu of each subject."""
    remarks: tuple[str, ...] = ()
    """What a person should hear about the rows, one line each."""

    @property
    def name(self) -> str:
        """What the benchmark is called in answers and metrics."""
        return self.config.task

    def questions(self) -> Iterator[tuple[str, str]]:
        """(id, question) of every row that is asked."""
        for row in self.rows:
            yield str(row["id"]), str(row[_QUESTION.get(self.config.task, "question")])

    @property
    def digest(self) -> str:
        """sha256 of everything that is asked."""
        return digest_of([self.rows, self.shots, self.config.model_dump(exclude={"digest", "data", "few_shot_data"})])


Benchmark = BenchmarkRows | NamedTask | NamedGroup
"""One built in, a task by its name, or a group or tag of tasks."""


def resolve_benchmarks(config: EvaluateConfig, seed: int = 0) -> EvaluateConfig:
    """The settings with every benchmark's `digest` filled in, so that changed rows are evaluated again.

    A task by name has none where lm-eval is not installed. Raises BadInputError where rows cannot be read,
    UnreachableError where hub or store does not answer.
    """
    resolved = [one.model_copy(update={"digest": _digest_of(one, seed)}) for one in config.benchmarks]
    return config.model_copy(update={"benchmarks": tuple(resolved)})


def check_benchmarks(config: EvaluateConfig, seed: int, judged: Sequence[str] = ()) -> list[Benchmark]:
    """Read and check the rows of every benchmark before anything is trained for it; `judged` are those that a gate
    compares models on.

    Of Parquet nothing is said where pyarrow is not installed, of tasks by name where lm-eval is not; of the hub only
    that its data set may be read here, where datasets is not. Raises as `load_benchmark`.
    """
    found: list[Benchmark] = []
    for benchmark in config.benchmarks:
        try:
            found.append(load_benchmark(benchmark, seed))
        except ModuleNotFoundError:
            if benchmark.built_in and benchmark.data is None:
                _check_access(benchmark.task)
    return [_judged(one) if one.name in judged else one for one in found]


def _judged(benchmark: Benchmark) -> Benchmark:
    """A benchmark that a gate compares models on; raises BadInputError where it cannot."""
    if isinstance(benchmark, NamedTask):
        check_judged(benchmark)
    if isinstance(benchmark, NamedGroup):
        message = check_group_judged(benchmark)
        return replace(benchmark, remarks=(*benchmark.remarks, *([message] if message else [])))
    return benchmark


def load_benchmark(config: BenchmarkConfig, seed: int) -> Benchmark:
    """What a benchmark asks; raises as `load_rows` or `load_named`."""
    return load_rows(config, seed) if config.built_in else load_named(config, seed)


def _digest_of(config: BenchmarkConfig, seed: int) -> str | None:
    if config.built_in:
        return _identity(config)
    try:
        return load_named(config.model_copy(update={"digest": None}), seed).digest
    except ModuleNotFoundError:
        return None


def load_rows(config: BenchmarkConfig, seed: int) -> BenchmarkRows:
    """The rows to ask, drawn by the seed where there is a limit, and the worked examples.

    Raises BadInputError where a row lacks something, or the rows are not those that `plan` saw.
    """
    if config.digest is not None and config.digest != _identity(config):
        raise BadInputError(f"evaluate.benchmarks: the rows of {config.task} are not those that plan saw; plan again")
    asked, remarks = _named(_rows_of(config, config.data, split=2), config, config.data)
    shots: list[Row] = []
    if config.worked_examples:
        separate = config.data is None or config.few_shot_data is not None
        others = _rows_of(config, config.few_shot_data, split=3)
        pool = _named(others, config, config.few_shot_data)[0] if separate else asked
        shots = _draw_shots(pool, config, seed)
        taken = {row["id"] for row in shots}
        left = [row for row in asked if row["id"] not in taken]
        _check_shots(asked, left, shots, config)
        asked = left
    remarks += limit_remarks(config, len(asked))
    if config.limit is not None and config.limit < len(asked):
        asked = random.Random(seed).sample(asked, config.limit)
    in_order = tuple(sorted(asked, key=lambda row: str(row["id"])))
    return BenchmarkRows(config, in_order, tuple(shots), tuple(remarks))


def benchmark_questions(config: BenchmarkConfig, seed: int) -> list[tuple[str, str]] | None:
    """(id, question) of every row that a benchmark asks; raises as `load_benchmark`.

    None where only lm-eval knows them and that is not installed.
    """
    try:
        return list(load_benchmark(config, seed).questions())
    except ModuleNotFoundError:
        if config.built_in:
            raise
        return None


def _draw_shots(pool: list[Row], config: BenchmarkConfig, seed: int) -> list[Row]:
    """`few_shot` rows drawn by the seed; of mmlu the first ones of each subject, as is the custom."""
    groups: dict[str, list[Row]] = {}
    for row in pool:
        groups.setdefault(row.get("subject", ""), []).append(row)
    for name, rows in groups.items():
        _check_enough_shots(name, len(rows), config)
    if config.task == "mmlu":
        return [row for rows in groups.values() for row in rows[: config.worked_examples]]
    return random.Random(seed).sample(pool, config.worked_examples)


def _check_enough_shots(subject: str, rows: int, config: BenchmarkConfig) -> None:
    if rows < config.worked_examples:
        where = f" of {subject}" if subject else ""
        source = config.few_shot_data or config.data or "the hub"
        raise BadInputError(
            f"evaluate.benchmarks: {config.task}{where} has fewer worked examples than {config.worked_examples}: "
            f"{rows} in {source}; lower few_shot or add rows"
        )


def _check_shots(asked: list[Row], left: list[Row], shots: list[Row], config: BenchmarkConfig) -> None:
    """Refuse what would be asked without worked examples, and examples that leave nothing to ask."""
    if not left:
        raise BadInputError(
            f"evaluate.benchmarks: {config.task} has no row to ask: few_shot {config.worked_examples} takes all "
            f"{len(asked)} of {config.data} as worked examples; name others in few_shot_data, or lower few_shot"
        )
    shown = {row.get("subject", "") for row in shots}
    for subject in dict.fromkeys(row.get("subject", "") for row in left):
        if subject not in shown:
            _check_enough_shots(subject, 0, config)


def _named(rows: Iterable[RawRow], config: BenchmarkConfig, address: str | None) -> tuple[list[Row], list[str]]:
    """Checked rows, each with an id, and what should be said of them; the second of two equal rows gets a number.

    Raises BadInputError where there is none, or two problems go by one name.
    """
    named: dict[str, Row] = {}
    places: dict[str, str] = {}
    repeated: list[str] = []
    for where, raw in rows:
        row = checked_row(config.task, where, raw)
        own = name_of(config.task, row)
        name = own or digest_of(row)[:16]
        if own in places:
            raise BadInputError(f"{where}: task_id is '{own}' as in {places[name]}; names of problems must differ")
        unique, number = name, 1
        while unique in named:
            number += 1
            unique = f"{name}-{number}"
        if name in places:
            repeated.append(f"{where} repeats {places[name]}")
        places.setdefault(name, where)
        named[unique] = {"id": unique, **row}
    if not named:
        raise BadInputError(f"evaluate.benchmarks: {config.task} has no row to ask: {address or 'the hub'} is empty")
    remarks = []
    if repeated:
        share = f"{len(repeated):,} of {len(named):,} rows"
        remarks.append(f"{config.task}: {share} repeat an earlier one, and count twice; the first: {repeated[0]}")
    return list(named.values()), remarks


def _rows_of(config: BenchmarkConfig, address: str | None, split: int) -> Iterator[RawRow]:
    """Rows at an address, or (None) of the hub, where `split` is the place in HUB's entry."""
    if address is None:
        yield from _hub_rows(config.task, str(HUB[config.task][split]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = _local_copy(address, Path(folder))
        try:
            for where, row in read_rows(path):
                yield where.replace(str(path), address), row
        except BadInputError as error:  # which names the settings of the examples, and the copy
            message = str(error).replace(str(path), address).replace("data.source: ", "")
            raise BadInputError(f"evaluate.benchmarks: {config.task}: {message}") from None


def _local_copy(address: str, folder: Path) -> Path:
    """The file at an address, unpacked where it is gzipped."""
    name = address.removesuffix(".gz").rsplit("/", 1)[-1]
    data = _bytes_at(address)
    if address.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise BadInputError(f"evaluate.benchmarks: {address} is not a gzip file") from None
    (folder / name).write_bytes(data)
    return folder / name


def _bytes_at(address: str) -> bytes:
    from lorapar.store import NotFoundError, is_s3, open_store

    if is_s3(address):
        place, _, name = address.rpartition("/")
        try:
            return open_store(place).read(name)
        except NotFoundError:
            raise BadInputError(f"evaluate.benchmarks: there is no object {address}") from None
    try:
        return Path(address).expanduser().read_bytes()
    except OSError as error:
        raise BadInputError(f"evaluate.benchmarks: {address} cannot be read: {error.strerror}") from None


def _identity(config: BenchmarkConfig) -> str:
    """sha256 over what the addresses hold, or over the hub's commit."""
    import hashlib

    if config.data is None:
        return digest_of([*HUB[config.task], _hub_commit(config.task)])
    held = [config.data, *([config.few_shot_data] if config.few_shot_data else [])]
    return digest_of([hashlib.sha256(_bytes_at(address)).hexdigest() for address in held])


def _hub_rows(task: str, split: str) -> Iterator[RawRow]:
    import datasets

    from lorapar.basemodel.hub import hub_errors

    name, subset, *_ = HUB[task]
    commit = _hub_commit(task)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    with _naming(task), hub_errors(name, commit, "dataset"):
        try:
            rows = datasets.load_dataset(name, subset, revision=commit, split=split)
        except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            # Gated, another subset or split than it had, or files that cannot be read: datasets says which.
            raise BadInputError(f"{name} ({split}) cannot be read: {' '.join(str(error).split())}") from None
        finally:
            if bars:
                datasets.enable_progress_bars()
    for number, row in enumerate(rows, 1):
        yield f"hub:{name} ({split}), row {number}", row


def _hub_commit(task: str) -> str:
    from lorapar.basemodel.hub import commit_of

    with _naming(task):
        return commit_of(HUB[task][0], None, "dataset")


def _check_access(task: str) -> None:
    """Raise where the hub would not hand out a data set, though it says which commits there are."""
    from huggingface_hub import HfApi

    from lorapar.basemodel.hub import cached_dataset, hub_errors

    name = HUB[task][0]
    if cached_dataset(name, _hub_commit(task)):
        return
    with _naming(task), hub_errors(name, None, "dataset"):
        HfApi().auth_check(name, repo_type="dataset")


@contextmanager
def _naming(task: str) -> Iterator[None]:
    """What the hub answers, told by the setting that asks, which is none of the examples'."""
    try:
        yield
    except (BadInputError, UnreachableError) as error:
        message = str(error).removeprefix("data.source: ").removeprefix("data.revision: ")
        message = message.replace("name a local file instead", "name a file of such rows in data")
        raise type(error)(f"evaluate.benchmarks: {task}: {message}") from None
