"""Answers against tests in a process of their own: what passes, and what an answer cannot do to seem to pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorapar.evaluation.sandbox import CodeUnderTest, Limits, Sandbox, SandboxPool

ADD = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"


@pytest.fixture(scope="module")
def sandbox(limits: Limits) -> Iterator[Sandbox]:
    with Sandbox(limits) as started:
        yield started


PASS = {
    "a function": ("def add(a, b):\n    return a + b", ADD),
    "plain values of every kind": (
        "def f(x):\n    return x",
        "for v in [None, True, 7, -2.5, 'a\\u00e9\\n', b'\\x00\\xff', 1j, [1, [2]], (1, (2,)), {1, 2},\n"
        "          frozenset({3}), {(1, 'k'): [None]}, 10**40, float('inf')]:\n"
        "    got = f(v)\n"
        "    assert got == v and type(got) is type(v)",
    ),
    "a class": (
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n"
        "        self.items.append(x)\n    def pop(self):\n        return self.items.pop()\n"
        "    def __len__(self):\n        return len(self.items)",
        "s = Stack()\ns.push(3)\ns.push(4)\nassert s.pop() == 4\nassert len(s) == 1\nassert s.items == [3]",
    ),
    "a generator and an exception": (
        "def count(n):\n    if n < 0:\n        raise ValueError('negative')\n    for i in range(n):\n        yield i",
        "assert list(count(3)) == [0, 1, 2]\ntry:\n    list(count(-1))\n    raise SystemExit\nexcept ValueError as e:\n"
        "    assert str(e) == 'negative'",
    ),
    "a check function": (
        "def f(x):\n    return x * 2",
        "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(f)",
    ),
    "a count of what failed, and an exit": (
        "def f(x):\n    return x * 2",
        "n = 0\nfor a in (1, 2):\n    try:\n        assert f(a) == 2 * a\n        n += 1\n    except Exception:\n"
        "        pass\nif n != 2:\n    exit(1)\ntry:\n    assert f(3) == 6\nexcept AssertionError:\n    quit('no')",
    ),
    "a constant, a default and a keyword": (
        "LIMIT = 3\ndef f(x, *, y=1):\n    return x + y",
        "assert f(LIMIT, y=2) == 5",
    ),
    "numbers, dates and rows of the standard library": (
        "from collections import deque\nfrom datetime import date, datetime, timedelta\nfrom decimal import Decimal\n"
        "from fractions import Fraction\n"
        "def f(x):\n    return x\n"
        "def g():\n    return [deque([1], 3), date(2024, 1, 5), datetime(2024, 1, 5, 3, 30),\n"
        "            timedelta(2, 1), Decimal('1.50'), Fraction(1, 3), range(1, 9, 2)]",
        "import collections, datetime, decimal, fractions\n"
        "wanted = [collections.deque([1], 3), datetime.date(2024, 1, 5), datetime.datetime(2024, 1, 5, 3, 30),\n"
        "          datetime.timedelta(2, 1), decimal.Decimal('1.50'), fractions.Fraction(1, 3), range(1, 9, 2)]\n"
        "assert g() == wanted and f(wanted) == wanted and list(map(type, g())) == list(map(type, wanted))\n"
        "assert g()[0].maxlen == 3 and str(g()[4]) == '1.50'",
    ),
    "a number of many digits": (
        "import math\ndef f(n):\n    return math.factorial(n)",
        "import math\nassert f(3000) == math.factorial(3000)",
    ),
    "a class that looks for its module": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int\ndef f():\n    return P(1).x",
        "assert f() == 1",
    ),
    "an exception of its own": (
        "class Empty(LookupError):\n    pass\ndef f():\n    raise Empty('nothing')",
        "try:\n    f()\nexcept LookupError as e:\n    assert str(e) == 'nothing'\nelse:\n    raise AssertionError",
    ),
    "an iterator, taken step by step": (
        "def count():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "steps = count()\nassert next(steps) == 0 and next(steps) == 1\nassert 7 in steps and next(steps) == 8",
    ),
    "an iterator that ends": (
        "def once():\n    yield 1",
        "steps = once()\nassert next(steps) == 1\ntry:\n    next(steps)\n    raise AssertionError\n"
        "except StopIteration:\n    pass",
    ),
    "attributes and items that are set": (
        "class Box:\n    def __init__(self):\n        self.kept = {}\n    def __setitem__(self, key, value):\n"
        "        self.kept[key] = value\n    def __delitem__(self, key):\n        del self.kept[key]\n"
        "    def __contains__(self, key):\n        return key in self.kept\n    def size(self):\n"
        "        return self.width",
        "box = Box()\nbox['a'] = 1\nbox['b'] = 2\ndel box['a']\nassert box.kept == {'b': 2}\n"
        "assert 'b' in box and 'a' not in box\n"
        "box.width = 4\nassert box.size() == 4",
    ),
    "what it prints does not matter": ("print('x' * 100)\ndef add(a, b):\n    print('hi')\n    return a + b", ADD),
}
FAIL = {
    "wrong": ("def add(a, b):\n    return a - b", ADD),
    "an exit of the tests": ("def f(x):\n    return 1", "try:\n    assert f(1) == 2\nexcept Exception:\n    exit(1)"),
    "half right": ("def add(a, b):\n    return 5", ADD),
    "nothing defined": ("x = 1", ADD),
    "no Python": ("def add(", ADD),
    "raises": ("def add(a, b):\n    raise KeyError(a)", ADD),
    # attempts to pass without being right
    "leaves with 0": ("import sys\nsys.exit(0)", ADD),
    "leaves at once": ("import os\nos._exit(0)", ADD),
    "leaves when called": ("import os\ndef add(a, b):\n    os._exit(0)", ADD),
    "prints a verdict": ("print('passed')\nprint('{\"status\": \"passed\"}')", ADD),
    "writes to every file": (
        "import os\nfor n in range(64):\n    try:\n        os.write(n, b'0' * 32 + b'\\n')\n    except OSError:\n"
        "        pass\ndef add(a, b):\n    return 0",
        ADD,
    ),
    "equals everything": (
        "class All:\n    def __eq__(self, other):\n        return True\n    def __bool__(self):\n        return True\n"
        "def add(a, b):\n    return All()",
        ADD,
    ),
    "a number that equals everything": (
        "class All(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def add(a, b):\n    return All(1)",
        ADD,
    ),
    "contains everything": (
        "class All:\n    def __contains__(self, one):\n        return True\ndef f():\n    return All()",
        "assert 5 in f()",
    ),
    "goes through what equals everything": (
        "class All:\n    def __eq__(self, other):\n        return True\ndef f():\n    yield All()",
        "assert 5 in f()",
    ),
    "ends a loop of the tests": (
        "def f(x):\n    raise StopIteration",
        "for got, wanted in zip(map(f, [1, 2]), [2, 4]):\n    assert got == wanted",
    ),
    "ends a loop with an exception of its own": (
        "class Stop(StopIteration):\n    pass\ndef f(x):\n    raise Stop",
        "assert all(map(lambda x: f(x) == 2 * x, [1, 2]))",
    ),
    "a list that equals everything": (
        "class All(list):\n    def __eq__(self, other):\n        return True\n    def __iter__(self):\n"
        "        return iter([2])\ndef f():\n    return All()",
        "assert f() == [2]",
    ),
    "an object that is true": ("class Yes:\n    pass\ndef f(x):\n    return Yes()", "assert f(1)"),
    "patches builtins": (
        "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.abs = lambda x: 0\n"
        "builtins.all = lambda x: True\ndef add(a, b):\n    return 9",
        "assert abs(add(2, 3) - 5) < 1e-9\nassert all([add(1, 1) == 2])",
    ),
    "brings its own helpers": (
        "def abs(x):\n    return 0\ndef isclose(a, b):\n    return True\ndef add(a, b):\n    return 9",
        "from math import isclose\nassert abs(add(2, 3) - 5) < 1e-9 and isclose(add(2, 3), 5)",
    ),
    "patches a module": (
        "import math\nmath.isclose = lambda a, b: True\ndef add(a, b):\n    return 9",
        "import math\nassert math.isclose(add(2, 3), 5)",
    ),
    "looks for the tests": (
        "import os\ndef add(a, b):\n    for place in ('tests.py', '../tests/tests.py'):\n        try:\n"
        "            return eval(open(place).read().split('==')[1].split()[0])\n        except OSError:\n"
        "            pass\n"
        "    return os.listdir('..')",
        ADD,
    ),
    "kills everybody": (
        "import os, signal\ndef add(a, b):\n    for pid in range(-9, 99):\n        try:\n"
        "            os.kill(os.getpid() + pid, signal.SIGKILL)\n        except OSError:\n            pass",
        ADD,
    ),
    "an exit as an exception": (
        "class Leave(Exception):\n    pass\nLeave.__name__ = 'SystemExit'\ndef add(a, b):\n    raise Leave",
        ADD,
    ),
    "answers out of turn": (
        "import os\nfor _ in range(8):\n    os.write(3, b'{\"value\": 5}\\n')\ndef add(a, b):\n    return 1",
        "assert add(2, 3) == 5\nassert add(1, 0) == 1\nassert add(2, 2) == 4",
    ),
}


@pytest.mark.parametrize("name", PASS)
def test_right_answers_pass(sandbox: Sandbox, name: str) -> None:
    outcome = sandbox.run(CodeUnderTest(*PASS[name]))
    assert outcome.passed, outcome


@pytest.mark.parametrize("name", FAIL)
def test_an_answer_cannot_bring_about_its_own_verdict(sandbox: Sandbox, name: str) -> None:
    outcome = sandbox.run(CodeUnderTest(*FAIL[name]))
    assert not outcome.passed
    assert outcome.status in ("failed", "died"), outcome
    assert outcome.detail


def test_the_last_line_says_why(sandbox: Sandbox) -> None:
    assert sandbox.run(CodeUnderTest("x = 1", ADD)).detail == "NameError: the answer defines no add"
    assert sandbox.run(CodeUnderTest("import os\nos._exit(0)", ADD)).detail.endswith("the answer's process has ended")


def test_an_endless_answer_ends_at_the_limit_and_leaves_nothing(sandbox: Sandbox) -> None:
    for answer in ("while True:\n    pass", "def add(a, b):\n    import time\n    time.sleep(1000)"):
        outcome = sandbox.run(CodeUnderTest(answer, ADD))
        assert not outcome.passed
        assert outcome.seconds < 30
    children = Path(f"/proc/{sandbox._warden.pid}/task/{sandbox._warden.pid}/children").read_text()
    assert children == ""
    assert os.listdir(sandbox._place) == ["outside"]


def test_many_at_once(limits: Limits) -> None:
    """The verdicts are those of running the same code in this process, which is safe for these."""
    jobs = [CodeUnderTest(f"def f(x):\n    return x * {n}", "assert f(3) == 6") for n in range(6)]
    with SandboxPool(limits, "strict", 2) as pool:
        found = {place: outcome.passed for place, outcome in pool.outcomes(jobs)}
    for place, job in enumerate(jobs):
        namespace: dict[str, object] = {}
        try:
            exec(f"{job.source}\n{job.tests}", namespace)  # noqa: S102
            right = True
        except AssertionError:
            right = False
        assert found[place] is right
