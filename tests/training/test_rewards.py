"""The five rewards against the paper's numbers, and your own rewards."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorapar.comparing import answer_rule
from lorapar.config import RlConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.training import own_rewards
from lorapar.training.columns import Columns
from lorapar.training.own_rewards import OwnReward
from lorapar.training.rewards import REWARDS, exact_answer, integer_answer, load_rewards

PERFECT = "<reasoning>3+4=7</reasoning>\n<answer>7</answer>"


def total(text: str, reference: str = "7") -> float:
    """What a completion earns with the default weights."""
    return sum(reward.weight * reward([text], [reference])[0] for reward in load_rewards(RlConfig().rewards))


@pytest.mark.parametrize(
    ("text", "paper"),
    [
        (PERFECT, 2.0 + 0.5 + 0.5 + 0.5 + 4 * 0.125),
        ("<reasoning>3+4=7</reasoning><answer>7.00</answer>", 4.0),
        ("<reasoning>3+4=8</reasoning><answer>8</answer>", 2.0),  # wrong, everything else right
        ("<reasoning>3+4=7</reasoning><answer>many</answer>", 1.5),  # no number
        (PERFECT + "0123456789", 4.0 - 0.5 - 10 * 0.001),  # no longer strict, ten trailing characters
        ("Well. " + PERFECT, 3.5),  # something before the tags: only the soft format holds
        ("<answer>7</answer>", 2.0 + 0.5 + 2 * 0.125),
        ("<reasoning>3+4=7</reasoning>", 2 * 0.125),
        ("7", 0.0),
        ("", 0.0),
        (PERFECT + PERFECT, 2.0 + 0.5 + 0.5),  # every tag twice: counts nothing, is not strict
    ],
)
def test_default_weights_add_up_to_the_papers_numbers(text: str, paper: float) -> None:
    assert total(text) == pytest.approx(paper, abs=1e-12)


def test_each_reward_is_one_for_all_that_it_asks() -> None:
    assert {name: reward([PERFECT], ["7"]) for name, reward in REWARDS.items()} == {key: [1.0] for key in REWARDS}


@pytest.mark.parametrize("written", ["1,000", "1000", "1000.0", "$1,000", " 1000 "])
def test_numbers_are_compared_as_numbers(written: str) -> None:
    assert REWARDS["exact_answer"]([f"<answer>{written}</answer>"], ["1000"]) == [1.0]
    assert REWARDS["integer_answer"]([f"<answer>{written}</answer>"], ["1000"]) == [1.0]


def test_a_fraction_is_no_integer() -> None:
    assert REWARDS["integer_answer"](["<answer>7.5</answer>", "<answer>-7</answer>"], ["7", "7"]) == [0.0, 1.0]


def test_the_exact_answer_follows_the_rule_of_the_run() -> None:
    completions = [
        r"<answer>\frac{\sqrt{2}}{2}</answer>",
        "no tags: 1",
        r"<answer>\sqrt{2}</answer>",
        "<answer>1</answer>",
    ]
    references = [r"\frac{1}{\sqrt{2}}", "1", r"\frac{1}{\sqrt{2}}", "1"]
    (exact,) = load_rewards({"exact_answer": 2.0})
    assert exact(completions, references) == [0.0, 0.0, 0.0, 1.0]
    with answer_rule("math") as rule:
        (reward,) = load_rewards({"exact_answer": 2.0}, rule)
        assert reward(completions, references) == [1.0, 0.0, 0.0, 1.0]


OWN_REWARDS = """
import math

def shorter(completions, references):
    return [1 / (1 + len(text)) for text in completions]

def endless(completions, references):
    return [10**400 for _ in completions]


def one_by_one(completions, references):
    yield from (float(len(text)) for text in completions)


def breaks_off(completions, references):
    yield 1.0
    raise ValueError("half-way")


def nan(completions, references):
    return [math.nan for _ in completions]

def too_few(completions, references):
    return [1.0]

def words(completions, references):
    return ["good" for _ in completions]

def generator_of_fewer(completions, references):
    return (1.0 for _ in completions[:1])

def fails(completions, references):
    raise KeyError("oops")

class Stop(BaseException):
    pass

def stops(completions, references):
    raise Stop("enough")

def leaves(completions, references):
    raise SystemExit(7)

def cancelled(completions, references):
    import asyncio
    raise asyncio.CancelledError

async def interrupted(completions, references):
    raise KeyboardInterrupt

number = 3

def abstains(completions, references):
    return [None if place else 0.5 for place, _ in enumerate(completions)]

def slow(completions, references):
    import time
    time.sleep(0.3)
    return [1.0 for _ in completions]

def no_values(completions, references):
    import pandas as pd
    return [0.5, *[pd.NA for _ in completions[1:]]]

def arrays(completions, references):
    import numpy as np
    return np.array([len(text) for text in completions], dtype=np.float32)

def tensors(completions, references):
    import torch
    return torch.tensor([len(text) for text in completions])

def scalars(completions, references):
    import numpy as np, torch
    kinds = [np.float32, np.bool_, torch.tensor]
    return [kind(True) for kind, _ in zip(kinds, completions)]

async def awaited(completions, references):
    import asyncio
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]

class Judge:
    loop = None

    async def __call__(self, completions, references):
        import asyncio
        assert self.loop in (None, asyncio.get_running_loop())  # as a client that is kept open needs it
        self.loop = asyncio.get_running_loop()
        return [1.0 for _ in completions]

judge = Judge()

def one_by_one(completions, references):
    async def of(text):
        return float(len(text))
    return [of(text) for text in completions]

def several(completions, references, all_references):
    return [float(first in right and len(right) > 1) for first, right in zip(references, all_references)]

async def from_a_stream(completions, references):
    for text in completions:
        yield float(len(text))

def as_trl_writes_it(prompts, completions, **kwargs):
    return [float(prompt[-1]["content"] == "3+4?" and len(text)) for prompt, text in zip(prompts, completions)]

def prompts_second(completions, prompts):
    return [float(prompt[-1]["content"] == "3+4?" and len(text)) for prompt, text in zip(prompts, completions)]

def named_alone(*, references, questions, completions):
    return [float(len(text)) if (right, asked) == ("7", "3+4?") else 9.0
            for right, asked, text in zip(references, questions, completions)]

def keywords(completions, **kwargs):
    return [float(len(text)) if right == "7" else 9.0 for right, text in zip(kwargs["references"], completions)]

def solutions(completions, solution, **kwargs):
    return [float(len(text)) if right == "7" else 9.0 for right, text in zip(solution, completions)]

def one_column_more(completions, references, difficulty):
    return [1.0 for _ in completions]

def of_one(completion):
    return 1.0

class Counted:
    def __call__(self, completions, references):
        return [1.0 for _ in completions]

def on_no_device(completions, references):
    import torch
    return torch.ones(len(completions), device="meta")

def column(completions, references):
    import torch
    return torch.tensor([[float(len(text))] for text in completions])

class Shy:
    def __repr__(self):
        raise ValueError("not shown")

class ShyError(Exception):
    def __str__(self):
        raise ValueError("not shown")

class NoLength(list):
    def __len__(self):
        raise RuntimeError("no length")

def shy(completions, references):
    return [Shy() for _ in completions]

def raises_shy(completions, references):
    raise ShyError

def without_length(completions, references):
    return NoLength(1.0 for _ in completions)

async def of_a_group(completions, references):
    import asyncio
    async def late():
        raise TimeoutError("the judge did not answer")
    async with asyncio.TaskGroup() as group:
        group.create_task(late())
    return [0.0 for _ in completions]


def half_a_pair(completions, references):
    raise ValueError("broken \\udc80 text")

def too_large(completions, references):
    return [1e300 for _ in completions]

def meddles(completions, references):
    import os, random, tempfile, torch
    os.chdir(tempfile.gettempdir())
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return [1.0 for _ in completions]

def talks(completions, references):
    print("looking at", len(completions))
    return [1.0 for _ in completions]
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_own_rewards.py").write_text(OWN_REWARDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_rewards", raising=False)
    return "my_own_rewards"


def test_a_reward_of_ones_own_by_import_path(own_module: str) -> None:
    (reward,) = load_rewards({f"{own_module}:shorter": 3.0})
    assert reward(["", "abc"], ["7", "7"]) == [1.0, 0.25]
    assert reward.weight == 3.0


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("nan", "finite"),
        ("endless", r"got 10+\.\.\.; for a completion"),
        ("breaks_off", "breaks_off failed: ValueError: half-way"),
        ("too_few", "one number a completion, got 1 values"),
        ("words", "finite numbers, got 'good'"),
        ("generator_of_fewer", "one number a completion, got 1 values"),
        ("fails", "rl.rewards: my_own_rewards:fails failed: KeyError: 'oops'"),
        ("stops", "stops failed: Stop: enough"),
        ("leaves", "leaves failed: SystemExit: 7"),
        ("cancelled", "cancelled failed: CancelledError"),
        ("interrupted", "interrupted failed: KeyboardInterrupt"),
        ("absent", "no function called absent"),
        ("number", "is a int, not a function"),
        ("one_column_more", "one_column_more needs difficulty; it is called with completions and references"),
        ("of_one", "of_one needs completion; it is called with completions and references"),
        ("Counted", r"Counted is a class; name an instance of it, such as one made by `mine = Counted\(\)`"),
        ("on_no_device", "on_no_device failed: NotImplementedError"),
        ("shy", "finite numbers, got a Shy; for"),
        ("raises_shy", r"raises_shy failed: ShyError \("),
        ("without_length", "without_length failed: RuntimeError: no length"),
        ("of_a_group", "of_a_group failed: TimeoutError: the judge did not answer"),
        ("half_a_pair", r"half_a_pair failed: ValueError: broken \\udc80 text"),
        ("too_large", r"numbers of at most 1e\+15, got 1e\+300: training squares them in float32"),
    ],
)
def test_a_faulty_reward_is_refused_before_training(own_module: str, function: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        load_rewards({f"{own_module}:{function}": 1.0})


@pytest.mark.parametrize("name", ["lies_here.py:one", "lies_here:one"])
def test_a_file_of_the_current_folder_is_named_as_python_names_it(tmp_path, monkeypatch, name):
    (tmp_path / "lies_here.py").write_text("def one(completions, references):\n    return [1.0 for _ in completions]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    with pytest.raises(BadInputError, match=r"lies_here\.py lies in this folder: name it lies_here:one and set"):
        load_rewards({name: 1.0})


def test_a_module_that_is_not_there_and_a_misspelt_name() -> None:
    with pytest.raises(BadInputError, match="cannot be imported"):
        load_rewards({"no_such_module_here:function": 1.0})
    with pytest.raises(BadInputError, match="did you mean 'tag_count'"):
        load_rewards({"tag_counts": 1.0})


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("abstains", [0.5, None, None]),
        ("no_values", [0.5, None, None]),
        ("arrays", [1.0, 2.0, 0.0]),
        ("tensors", [1.0, 2.0, 0.0]),
        ("column", [1.0, 2.0, 0.0]),
        ("scalars", [1.0, 1.0, 1.0]),
        ("awaited", [1.0, 2.0, 0.0]),
        ("judge", [1.0, 1.0, 1.0]),
        ("one_by_one", [1.0, 2.0, 0.0]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_a_reward_may_return(own_module: str, function: str, values: list[float | None]) -> None:
    (reward,) = load_rewards({f"{own_module}:{function}": 1.0})
    assert reward(["a", "ab", ""], ["7"] * 3) == values
    assert all(value is None or type(value) is float for value in reward(["a", "ab", ""], ["7"] * 3))


@pytest.mark.parametrize(
    "function",
    ["as_trl_writes_it", "prompts_second", "named_alone", "keywords", "solutions", "from_a_stream"],
)
def test_a_reward_gets_by_name_what_its_parameters_are_called(own_module: str, function: str) -> None:
    (reward,) = load_rewards({f"{own_module}:{function}": 1.0})
    texts = ["a", "ab", ""]
    assert reward(texts, ["7"] * 3, Columns.for_trying(texts, "7")) == [1.0, 2.0, 0.0]


def test_a_reward_gets_the_first_of_several_references_or_all_where_it_asks(own_module: str) -> None:
    rows = [("Tully", "Cicero"), "Cicero"]
    (reward,) = load_rewards({f"{own_module}:several": 1.0})
    assert reward(["", ""], rows) == [1.0, 0.0]
    assert REWARDS["exact_answer"](["<answer>Cicero</answer>"] * 2, rows) == [1.0, 1.0]


def test_a_reward_leaves_the_process_as_it_found_it(own_module: str) -> None:
    folder, number_format = Path.cwd(), torch.get_default_dtype()
    torch.manual_seed(7)
    next_numbers = torch.rand(2)
    torch.manual_seed(7)
    load_rewards({f"{own_module}:meddles": 1.0})
    assert Path.cwd() == folder
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == number_format
    assert torch.equal(torch.rand(2), next_numbers)


def test_a_slow_reward_is_named_while_it_works(own_module: str, monkeypatch, caplog) -> None:
    reward = OwnReward.find(f"{own_module}:slow")
    monkeypatch.setattr(own_rewards, "_SLOW_SECONDS", 0.05)
    monkeypatch.setattr(own_rewards, "_patience", {})
    for _ in range(2):
        assert reward(["a"], ["7"]) == [1.0]
    (line,) = caplog.messages
    assert line.startswith(f"lorapar: rl.rewards: {own_module}:slow has not answered for 0.05 s (completions: 1)")
    monkeypatch.setattr(own_rewards, "_SLOW_SECONDS", 60.0)
    caplog.clear()
    quiet = replace(reward, name="another", names_itself_when_slow=False)
    assert quiet(["a"], ["7"]) == [1.0]
    assert OwnReward.find(f"{own_module}:one_by_one")(["a"], ["7"])
    assert not caplog.messages


def test_what_a_reward_prints_does_not_go_to_standard_output(own_module: str, capsys) -> None:
    load_rewards({f"{own_module}:talks": 1.0})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "looking at 3" in printed.err


@pytest.mark.parametrize(("answer", "whole"), [("18 apples", 1.0), ("1 000", 1.0), ("2 1/2", 0.0), ("(B)", 0.0)])
def test_an_integer_may_have_a_unit(answer: str, whole: float) -> None:
    assert REWARDS["integer_answer"]([f"<answer>{answer}</answer>"], ["7"]) == [whole]


def test_a_generator_is_a_list_as_well(own_module: str) -> None:
    (reward,) = load_rewards({f"{own_module}:one_by_one": 1.0})
    assert reward(["a", "bcd"], ["x", "y"]) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("answer", "right", "whole"),
    [
        *(
            (answer, 1.0, 1.0)
            for answer in ("2^6", "64 square meters", "64 m\u00b2", "$64$", "\\boxed{64}", "\u202f64\u202fkg")
        ),
        *((answer, 0.0, 1.0) for answer in ("8^3", "1\u2019064", "1,00,064", "minus 64", "640", "64 million")),
        *((answer, 0.0, 0.0) for answer in ("[63, 64]", "60-64", "64 \u00b1 1", "64x", "64th", "128/3", "\u00bd")),
    ],
)
def test_rewards_and_accuracy_read_an_answer_alike(answer: str, right: float, whole: float) -> None:
    text = f"<reasoning>8 * 8</reasoning><answer>{answer}</answer>"
    assert exact_answer([text], ["64"]) == [right]
    assert integer_answer([text], ["64"]) == [whole]
    assert strict_match(text, "64", "system2") is bool(right)
    assert lenient_match(text, "64") is bool(right)
