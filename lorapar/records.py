"""Rows of data that stages hand to each other, and how they are written: JSON Lines, one validated record a line; and
tables as CSV, for people.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from lorapar.errors import BadInputError

System = str
"""Name of a system: `system1` and `system2`, or those that the settings name (`systems`)."""


def system_title(system: System) -> str:
    """`System 1` for `system1`; names of other systems as they are."""
    return {"system1": "System 1", "system2": "System 2"}.get(system, system)


class Record(BaseModel):
    """A row; unknown fields are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Turn(Record):
    """A message of a conversation; what its row's system message says stands apart."""

    role: Literal["user", "assistant"]
    content: str
    learned: Literal[False] | None = None
    """False: its row says that this turn of the assistant is never learned (weight 0); it is context."""


class Example(Record):
    """One question with the answer the model learns to write."""

    id: str
    question: str
    """What the last turn of the user says."""
    answer: str
    """The whole text the model is trained to produce."""
    reference: str | tuple[str, ...] | None = None
    """The short exact answer that rewards and accuracy compare with, or several of which any is right; None where
    there is none."""
    tests: str | None = None
    """Python source that the code of an answer has to pass; None where there are no tests."""
    known_system: System | None = None
    """The true system where the data names it: used to judge teachers; it labels training rows only where
    `voting.labels` is `data`."""
    split: Literal["train", "heldout", "development"] = "train"
    system_message: str | None = None
    """The row's own system message, where it brings one."""
    history: tuple[Turn, ...] | None = None
    """The turns before the question; None where the row has one question and one answer."""

    @property
    def asked(self) -> str:
        """All that stands before the answer as one text: the question alone, where the row has nothing else."""
        if self.system_message is None and not self.history:
            return self.question
        turns = [("System", self.system_message)] if self.system_message else []
        turns += [(turn.role.capitalize(), turn.content) for turn in self.history or ()]
        return "\n\n".join(f"{who}: {text}" for who, text in [*turns, ("User", self.question)])


class Vote(Record):
    """One teacher's opinion of one example."""

    example_id: str
    teacher: str
    label: System | None = None
    """None: it abstained. It was asked and would not answer this row; `raw` says why."""
    weight: float = 1.0
    confidence: float | None = None
    """Probability of the label among the label words, from unmasked log-probabilities; None where unknown."""
    log_probs: dict[str, float] | None = None
    """Unmasked log-probability of each system's label word."""
    template: str
    """Digest of the template the teacher was asked with."""
    raw: str
    """What the teacher answered, as text."""
    tokens: int = 0
    """Tokens the teacher read and wrote for this vote."""
    thinking_tokens: int | None = None
    """How many of them it thought before it answered; None where it is not told."""
    uncalibrated: System | None = None
    """The label before the teacher's bias was subtracted; None where votes are not calibrated."""
    cached: bool | None = None
    """True: the teacher said it in an earlier run and was not asked again."""


class Label(Record):
    """What the votes on one example came to."""

    example_id: str
    system: System | None = None
    """None: held out (a tie or too little agreement, where the settings say so)."""
    votes: dict[str, float]
    """Weight of the votes cast for each system."""
    agreement: float
    """Share of the cast weight that went to the label."""
    tied: bool = False
    decided: bool = True
    """False: a remaining teacher's vote could still change the outcome."""
    edited: bool | None = None
    """True: a person has set `system`, whatever the votes say."""
    given: Literal["data", "random"] | None = None
    """What gave `system` in place of votes, on which nobody was asked then (`voting.labels`)."""


class Answer(Record):
    """One answer to a held-out example of a system, or to a row of a benchmark: exactly one of the two is named."""

    example_id: str
    system: System | None = None
    benchmark: str | None = None
    model: str
    """Which model answered: `base`, `after_sft`, `after_rl` (the adapter as published) or `incumbent`."""
    text: str
    tokens: int
    strict: bool | None = None
    """Right by the strict rule (the text inside the answer tags, or the whole answer); None: nothing to compare."""
    lenient: bool | None = None
    """Right by the lenient rule (last number in the text, or the reference contained in it)."""
    loss: float | None = None
    """Mean cross-entropy of the reference answer's tokens, in nats; None for a benchmark."""
    cut_off: bool | None = None
    """True: the answer was as long as it might be and had not ended."""

    @model_validator(mode="after")
    def _counted_under_one(self) -> Answer:
        if (self.system is None) == (self.benchmark is None):
            raise ValueError("an answer is of a system or of a benchmark, of exactly one")
        return self

    @property
    def measure(self) -> str:
        """What the answer is counted under: its benchmark or its system."""
        return self.benchmark or str(self.system)


class Omission(Record):
    """Rows, answers or completions that a stage left out or cut: how many, why, and what changes that."""

    count: int
    total: int
    what: str
    """What was counted and what became of it, such as `rows left out`."""
    why: str
    remedy: str
    """What a person does about it; names the setting."""
    meant: bool = False
    """Whether a setting asks for just this, so that it is no warning however much it is."""

    @property
    def line(self) -> str:
        """`32 of 35 rows left out: no token of their answer is within 256 tokens; raise sft.max_length`."""
        return f"{self.count:,} of {self.total:,} {self.what}: {self.why}; {self.remedy}"

    @property
    def is_much(self) -> bool:
        """Whether it is half or more, which no reader may miss."""
        return not self.meant and self.count * 2 >= self.total > 0


HELDOUT_ROWS = "held-out rows"
DEVELOPMENT_ROWS = "development rows"
"""What evaluates rows that are no benchmark's, where it is counted beside benchmarks."""
OMISSIONS = "omissions"
"""The key of a stage's summary that lists what it left out or cut."""


def omissions_of(*found: Omission) -> list[dict[str, Any]]:
    """Those of which there are some, for a summary."""
    return [one.model_dump() for one in found if one.count]


R = TypeVar("R", bound=Record)
P = TypeVar("P")


def digest_of(value: Any) -> str:
    """sha256 of a JSON value in canonical form (sorted keys, no spaces): equal values, equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, before, after) of two JSON values, down to what differs: `teachers[chat].weight`, not the whole list.

    Items of lists are known by their `name` where each has one of its own, else by their place from 0; None stands for
    what one side does not have.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        before, after = _by_name(old), _by_name(new)
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{path}[{key}]")
        if before.keys() == after.keys() and list(before) != list(after):
            yield f"the order of {path}", list(before), list(after)
    elif old != new:
        yield path, old, new


def _by_name(items: Sequence[Any]) -> dict[str, Any]:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if None in names or len(set(map(str, names))) < len(names):
        names = list(range(len(items)))
    return {str(name): item for name, item in zip(names, items, strict=True)}


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one JSON object a line; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json(exclude_none=True) + "\n")
            count += 1
    return count


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Rows of a file that `write_records` made; raises BadInputError with file and line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise BadInputError(f"{path}:{number}: not a {kind.__name__} row: {error.errors()[0]['msg']}") from None


def read_parts(path: Path, parts: TypeAdapter[P], kind: str) -> Iterator[P]:
    """As `read_records`, but only the fields that `parts` (of a TypedDict) has are read and checked: half the time."""
    check = parts.validator.validate_json
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield check(line)
            except ValidationError as error:
                raise BadInputError(f"{path}:{number}: not a {kind} row: {error.errors()[0]['msg']}") from None


def recover_lines(path: Path, parse: Callable[[bytes], P], *, fix: bool = True) -> Iterator[P]:
    """What a file holds to which a process appended that may have been killed; nothing where there is no such file.

    From the first line on that was not written to its end, or that `parse` refuses (ValueError, KeyError), the file is
    cut off once all has been read, so that what is appended next begins a line; without `fix` it is left as it is.
    """
    if not path.is_file():
        return
    whole_bytes = 0
    with path.open("rb+" if fix else "rb") as file:
        for line in file:
            try:
                value = parse(line)
            except (ValueError, KeyError):
                break
            if not line.endswith(b"\n"):
                break
            whole_bytes += len(line)
            yield value
        if fix:
            file.truncate(whole_bytes)


def sample_rows(rows: Iterable[Example], count: int, seed: int) -> list[Example]:
    """At most `count` rows, drawn and ordered by the seed alone: the order of the file does not matter."""
    by_id = sorted(rows, key=lambda row: row.id)
    return random.Random(seed).sample(by_id, min(count, len(by_id)))


def json_text(value: Any) -> str:
    """A JSON value, indented; NaN and infinities are refused because no JSON reader takes them."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as `json_text` gives it."""
    path.write_text(json_text(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """A JSON value; raises BadInputError with file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"{path}:{line}: not JSON: its bytes are no UTF-8") from None


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV with a heading."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def spreadsheet_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
