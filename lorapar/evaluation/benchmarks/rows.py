"""Rows of a benchmark: from the hub, a local file or an S3 address; checked, named, drawn by the seed."""

from __future__ import annotations

import gzip
import random
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.data.readers import RawRow, read_rows
from lorapar.errors import BadInputError
from lorapar.records import digest_of

Row = dict[str, Any]
HUB = {
    "gsm8k": ("openai/gsm8k", "main", "test", "train"),
    "mmlu": ("cais/mmlu", "all", "test", "dev"),
    "humaneval": ("openai/openai_humaneval", None, "test", None),
}
"""Of each benchmark: data set, its configuration, the split that is asked, and the one worked examples come from."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="ignore")


class GsmRow(_Checked):
    """A row of GSM8K; the number stands after `####`."""

    question: str = Field(min_length=1)
    answer: str = Field(pattern=r"####\s*\S")


class MmluRow(_Checked):
    """A row of MMLU; the answer is the place of the right choice, 0 to 3, or its letter."""

    subject: str
    question: str
    choices: list[str] = Field(min_length=4, max_length=4)
    answer: int = Field(ge=0, le=3)

    @field_validator("answer", mode="before")
    @classmethod
    def _letter(cls, value: Any) -> Any:
        return "ABCD".index(value) if isinstance(value, str) and value in set("ABCD") else value


class HumanEvalRow(_Checked):
    """A problem of HumanEval."""

    task_id: str
    prompt: str
    test: str
    entry_point: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


_KINDS: dict[str, type[_Checked]] = {"gsm8k": GsmRow, "mmlu": MmluRow, "humaneval": HumanEvalRow}


@dataclass(frozen=True)
class BenchmarkRows:
    """What one benchmark asks. Every row has a field `id`, the same in every evaluation of the same rows."""

    config: BenchmarkConfig
    rows: tuple[Row, ...]
    shots: tuple[Row, ...]
    """Worked examples to draw from: `few_shot` of them, for mmlu of each subject."""

    @property
    def name(self) -> str:
        """What the benchmark is called in answers and figures."""
        return self.config.task

    @property
    def digest(self) -> str:
        """sha256 of everything that is asked."""
        return digest_of([self.rows, self.shots, self.config.model_dump(exclude={"digest", "data", "few_shot_data"})])


def resolve_benchmarks(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with every benchmark's `digest` filled in, so that changed rows are evaluated anew.

    Raises BadInputError where rows cannot be read, UnreachableError where hub or store does not answer.
    """
    resolved = [one.model_copy(update={"digest": _identity(one)}) for one in config.benchmarks]
    return config.model_copy(update={"benchmarks": tuple(resolved)})


def load_rows(config: BenchmarkConfig, seed: int) -> BenchmarkRows:
    """The rows to ask, drawn by the seed where there is a limit, and the worked examples.

    Raises BadInputError where a row lacks something, or the rows are not those that `plan` saw.
    """
    if config.digest is not None and config.digest != _identity(config):
        raise BadInputError(f"evaluate.benchmarks: the rows of {config.task} are not those that plan saw; plan again")
    asked = _named(_rows_of(config, config.data, split=2), config.task)
    shots: list[Row] = []
    if config.few_shot:
        separate = config.data is None or config.few_shot_data is not None
        pool = _named(_rows_of(config, config.few_shot_data, split=3), config.task) if separate else asked
        shots = _draw_shots(pool, config, seed)
        taken = {row["id"] for row in shots}
        asked = [row for row in asked if row["id"] not in taken]
    if config.limit is not None and config.limit < len(asked):
        asked = random.Random(seed).sample(asked, config.limit)
    if not asked:
        raise BadInputError(f"evaluate.benchmarks: {config.task} has no row to ask")
    return BenchmarkRows(config, tuple(sorted(asked, key=lambda row: str(row["id"]))), tuple(shots))


def _draw_shots(pool: list[Row], config: BenchmarkConfig, seed: int) -> list[Row]:
    """`few_shot` rows drawn by the seed; of mmlu the first ones of each subject, as is the custom."""
    groups: dict[str, list[Row]] = {}
    for row in pool:
        groups.setdefault(row.get("subject", ""), []).append(row)
    short = [name for name, rows in groups.items() if len(rows) < config.few_shot]
    if short or not groups:
        where = f" of {short[0]}" if short and short[0] else ""
        raise BadInputError(
            f"evaluate.benchmarks: {config.task}{where} has fewer worked examples than {config.few_shot}"
        )
    if config.task == "mmlu":
        return [row for rows in groups.values() for row in rows[: config.few_shot]]
    return random.Random(seed).sample(pool, config.few_shot)


def _named(rows: Iterable[RawRow], task: str) -> list[Row]:
    """Checked rows, each with an id; the second of two equal rows gets a number."""
    named: dict[str, Row] = {}
    for where, raw in rows:
        try:
            row = _KINDS[task].model_validate(raw).model_dump()
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            raise BadInputError(f"{where}: not a {task} row: {field}: {problem['msg']}") from None
        name = row["task_id"] if task == "humaneval" else digest_of(row)[:16]
        unique, number = name, 1
        while unique in named:
            number += 1
            unique = f"{name}-{number}"
        named[unique] = {"id": unique, **row}
    return list(named.values())


def _rows_of(config: BenchmarkConfig, address: str | None, split: int) -> Iterator[RawRow]:
    """Rows at an address, or (None) of the hub, where `split` is the place in HUB's entry."""
    if address is None:
        yield from _hub_rows(config.task, str(HUB[config.task][split]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = _local_copy(address, Path(folder))
        for where, row in read_rows(path):
            yield where.replace(str(path), address), row


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
        from lorapar.basemodel.hub import commit_of

        return digest_of([*HUB[config.task], commit_of(HUB[config.task][0], None, "dataset")])
    held = [config.data, *([config.few_shot_data] if config.few_shot_data else [])]
    return digest_of([hashlib.sha256(_bytes_at(address)).hexdigest() for address in held])


def _hub_rows(task: str, split: str) -> Iterator[RawRow]:
    import datasets

    from lorapar.basemodel.hub import commit_of, hub_errors

    name, subset, *_ = HUB[task]
    commit = commit_of(name, None, "dataset")
    with hub_errors(name, commit, "dataset"):
        rows = datasets.load_dataset(name, subset, revision=commit, split=split)
    for number, row in enumerate(rows, 1):
        yield f"hub:{name} ({split}), row {number}", row
