"""rl.filter: which rows RL learns from, by how often the adapter solves them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lorapar import own_code
from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import load_model
from lorapar.config import RlConfig, RowFilter
from lorapar.errors import BadInputError, Terminated
from lorapar.records import Example
from lorapar.training import pass_rates
from lorapar.training.pass_rates import Kept, PassRate, filter_rows
from lorapar.training.reward_tools import RewardTools
from lorapar.training.session import TrainingJob

Make = Callable[..., TrainingJob]
# What a random model writes solves nothing, so the row says what becomes of it: s0 never, s1 always, others by chance.
REWARDS = """
def by_row(completions, references):
    own = {"2": lambda text: 0.0, "3": lambda text: 1.0}
    chance = lambda text: float(sum(map(ord, text)) % 2)
    return [own.get(reference, chance)(text) for text, reference in zip(completions, references)]

def silent(completions, references):
    return [None for _ in completions]
"""
SAMPLES = 4


@pytest.fixture(autouse=True)
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "row_rewards.py").write_text(REWARDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "row_rewards", raising=False)


def config(**chosen: Any) -> RlConfig:
    return RlConfig(
        batch_size=4,
        gradient_accumulation=2,
        num_generations=4,
        max_completion_length=6,
        rewards={"row_rewards:by_row": 1.0, "tag_count": 0.5},
        filter={"samples": SAMPLES, **chosen},
    )


@pytest.mark.parametrize(
    ("module", "matters"),
    [("training.rollouts", True), ("training.sampling", True), ("training.rewards", False), ("answers", False)],
)
def test_another_build_of_what_samples_samples_again(module: str, matters: bool, monkeypatch: Any) -> None:
    source = own_code._source
    before = pass_rates.sampling_code()
    monkeypatch.setattr(own_code, "_source", lambda name: source(name) + "#" * (name == f"lorapar.{module}"))
    own_code.code_digest.cache_clear()
    after = pass_rates.sampling_code()
    own_code.code_digest.cache_clear()
    assert (after != before) is matters


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Questions that the adapter was really asked, a list a call."""
    seen: list[list[str]] = []
    complete = pass_rates._Asker.complete

    def spied(self: Any, rows: Any, seed: int) -> Any:
        seen.append([row["question"] for row in rows])
        return complete(self, rows, seed)

    monkeypatch.setattr(pass_rates._Asker, "complete", spied)
    return seen


@pytest.fixture
def make_job(make_job: Make) -> Make:
    """A new job for every call."""
    count = iter(range(100))
    return lambda **changes: make_job(f"job{next(count)}", **changes)


def choose(job: TrainingJob, settings: RlConfig, rows: list[Example], cache: Path | None = None) -> Kept:
    return filter_rows(job, settings, system1=[], system2=rows, tools=RewardTools(cache=cache))


def test_rows_that_are_always_or_never_solved_are_left_out(make_job: Make, kit, asked) -> None:
    kept = choose(make_job(), config(), kit.sums(6))
    rates = {one.id: one.rate for one in kept.rates}
    assert rates["s0"] == 0.0
    assert rates["s1"] == 1.0
    assert {"s0", "s1"} <= kept.ids == {name for name, rate in rates.items() if rate in (0.0, 1.0)}
    document = kept.document()
    assert sum(bar["rows"] for bar in document["histogram"]) == document["rows"] == 6
    assert [bar["pass_rate"] for bar in document["histogram"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert document["never"] + document["always"] + document["kept"] == 6
    assert document["rewards"] == ["row_rewards:by_row"]
    assert kept.metrics()["filter_kept"] == document["kept"]
    assert all(len(questions) == 2 * SAMPLES for questions in asked), "as many at once as RL samples for a step"


def test_asked_once_whatever_is_made_of_it(make_job: Make, kit, asked, tmp_path) -> None:
    rows = kit.sums(12)
    first = choose(make_job(), config(), rows, tmp_path / "cache")
    asked.clear()
    again = choose(make_job(), config(), rows, tmp_path / "cache")
    assert again.rates == first.rates
    assert (first.metrics()["filter_recalled"], again.metrics()["filter_recalled"]) == (0, 12)
    other = config(low=0.6).model_copy(update={"learning_rate": 1e-3, "num_iterations": 2})
    chosen = choose(make_job(), other, rows, tmp_path / "cache")
    assert chosen.rates == first.rates
    assert {one.id for one in chosen.rates if one.rate == 0.25 or one.rate == 0.5} <= chosen.ids
    assert not asked
    choose(make_job(), config(samples=2), rows, tmp_path / "cache")
    assert asked, "other questions"


def test_goes_on_after_a_kill_with_the_same_completions(make_job: Make, kit, asked, tmp_path, monkeypatch) -> None:
    rows = kit.sums(6)
    whole = choose(make_job(), config(), rows, tmp_path / "other")
    total = len(asked)
    assert total == 3
    asked.clear()
    complete = pass_rates._Asker.complete

    def killed(self: Any, rows: Any, seed: int) -> Any:
        if len(asked) == 2:
            raise Terminated
        return complete(self, rows, seed)

    job = make_job()
    with monkeypatch.context() as patch:
        patch.setattr(pass_rates._Asker, "complete", killed)
        with pytest.raises(Terminated):
            choose(job, config(), rows)
    asked.clear()
    went_on = choose(job, config(), rows)
    assert len(asked) == 1
    assert went_on.recalled == 4, "of six, two at a time"
    assert went_on.rates == whole.rates


def test_another_adapter_is_asked_anew(make_job: Make, kit, asked, tmp_path) -> None:
    job = make_job()
    choose(job, config(), kit.sums(6), tmp_path / "cache")
    asked.clear()
    other = tmp_path / "other"
    save_adapter(attach(load_model(kit.TINY), AdapterSettings(rank=2, alpha=8), seed=1), other)
    choose(replace(job, adapter=other), config(), kit.sums(6), tmp_path / "cache")
    assert len(asked) == 3


def test_none_left_is_one_clear_line(make_job: Make, kit) -> None:
    rows = [*kit.sums(1), *kit.sums(1, id="again")]
    with pytest.raises(BadInputError, match=r"rl\.filter: none of 2 rows .* 2 rows are never solved, 0 always"):
        choose(make_job(), config(), rows)


def test_a_row_that_no_reward_judges_is_kept(make_job: Make, kit) -> None:
    settings = config().model_copy(update={"rewards": {"row_rewards:silent": 1.0}})
    kept = choose(make_job(), settings, kit.sums(2))
    assert not kept.ids
    assert kept.document()["not_judged"] == 2


def test_what_is_left_out_is_reported_with_what_helps() -> None:
    settings = config(low=0.5)
    rates = [("a", 0), ("b", 4), ("c", 1), ("d", 2)]
    found = tuple(PassRate(id=name, solved=solved, samples=4) for name, solved in rates)
    kept = Kept(found, frozenset("abc"), settings)
    never, always, outside = (one.line for one in kept.omissions())
    assert never.startswith("1 of 4 rows left out by rl.filter: none of 4 completions of the adapter solves them; warm")
    assert "each of 4 completions" in always
    assert "not from 0.5 to 1; widen rl.filter.low" in outside


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"low": 0.6, "high": 0.4}, "none of the shares"),
        ({"low": 0.3, "high": 0.4, "samples": 2}, "raise samples"),
        ({"samples": 1}, "samples"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        RowFilter(**values)


def test_its_reward_is_one_of_the_rewards() -> None:
    with pytest.raises(ValidationError, match=r"none of rl\.rewards \(exact_answer"):
        RlConfig(filter={"reward": "exact"})
    assert RlConfig().solving_rewards == ("exact_answer",)
    assert RlConfig(rewards={"tag_count": 0.5, "strict_format": 1.0}).solving_rewards == ("strict_format",)
