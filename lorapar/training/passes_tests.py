"""Code as System 2: 1.0 where a completion's code passes the tests of its row, in the sandbox.

Each completion runs in a process of its own and the tests in another (`lorapar.evaluation.sandbox.tested`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import dedent

from lorapar.answers import References, extract_tagged
from lorapar.config import ExecuteConfig
from lorapar.evaluation.execution import limits_of
from lorapar.evaluation.sandbox import CodeUnderTest, SandboxPool
from lorapar.records import Example
from lorapar.training.columns import Columns

_BEFORE = r"(?:[^`\n]++|(?P<ticks>`++)[^`\n]++(?P=ticks)(?!`)|(?<!`)`{1,2}(?!`))*+"
"""A line before a fence: text, and code within the text (`x`, ```x```)."""
_FENCED = re.compile(
    r"^(?:[ \t]*+(?:(?:[-*+]|[0-9]{1,3}[.)])[ \t]++)?(?P<fence>`{3,}+|~{3,}+)[ \t]*+[\w+.-]*+(?:[ \t{][^`\n]*+)?"
    rf"|{_BEFORE}(?P<inline>`{{3,}}+)[ \t]*+[\w+.-]*+[ \t]*+)\n"
    r"(?P<code>.*?)(?:^[ \t]*(?:(?P=fence)|(?P=inline))|\Z|(?P=fence)|(?P=inline))",
    re.DOTALL | re.MULTILINE,
)
"""A block of code, which may be indented, and goes to the end of the text where nothing closes it.

It begins with a line, or at the end of one that says something.
"""
_DEFINES = (
    re.compile(r"^(?:def|class|async def)\s", re.MULTILINE),
    re.compile(r"^\w+\s*(?::[^=\n]+)?=(?!=)", re.MULTILINE),
)
"""Lines that define something, and those that give a name to a value, as the use of code may, too."""


class PassesTests:
    """The reward; `pool` is an open SandboxPool. No say about a row without tests."""

    takes_columns = True

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns
    ) -> list[float | None]:
        """Equal pairs of code and tests are run once."""
        rows = zip(completions, columns.tests, strict=True)
        pairs = [CodeUnderTest(code_of(text), tests or "") for text, tests in rows]
        run = list(dict.fromkeys(pair for pair in pairs if pair.tests and pair.source.strip()))
        passed = {run[place]: outcome.passed for place, outcome in self._pool.outcomes(run)}
        return [float(passed.get(pair, False)) if pair.tests else None for pair in pairs]


def failing_themselves(rows: Sequence[Example], pool: SandboxPool) -> list[Example]:
    """The rows whose own answer does not pass their tests: RL would reward what is wrong, or nothing."""
    answers = [row.answer for row in rows]
    columns = Columns([row.question for row in rows], answers, [], [], tests=[row.tests for row in rows])
    passed = PassesTests(pool)(answers, [()] * len(rows), columns)
    return [row for row, value in zip(rows, passed, strict=True) if value == 0.0]


def code_of(completion: str) -> str:
    """The code in a completion: the last fenced block of what is in the answer tags, or of all of it; else that.

    A block that defines nothing, such as one that shows how the code is used or what it writes, is passed over where
    another one does.
    """
    given = extract_tagged(completion)
    text = completion if given is None else given
    blocks = [dedent(found["code"]) for found in _FENCED.finditer(text)]
    defining = ([block for block in blocks if pattern.search(block)] for pattern in _DEFINES)
    return next(filter(None, defining), blocks or [text])[-1]


def sandbox_pool(settings: ExecuteConfig) -> SandboxPool:
    """Sandboxes with the limits of the section `execute`; a context manager that refuses what is not confined."""
    return SandboxPool(limits_of(settings), settings.sandbox, settings.workers)
