"""What training would leave out is said by plan, and again once the vote has assigned the rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lorapar.config import RunConfig, load_config
from lorapar.data import load_examples
from lorapar.errors import BadInputError
from lorapar.local.forecast import log_forecast, planned_omissions
from lorapar.records import write_records
from lorapar.stages.plan import make_plan
from tests.local.test_run import Spoken

BOTH = ("sft", "rl")


def config(tmp_path: Path, rows: list[dict], *overrides: str) -> RunConfig:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"data.source={path}", "data.heldout=1", "rl.batch_size=4", "rl.gradient_accumulation=1", *overrides]
    return load_config(preset="tiny", overrides=given)


def rows(short: int, long: int, **more: str) -> list[dict]:
    """Rows whose questions are about 20 or about 400 tokens of the tiny model, which reads characters."""
    questions = [*(f"How much is {n}+2?" for n in range(short)), *(f"{'Well. ' * 60}{n}+2?" for n in range(long))]
    return [{"question": one, "answer": "x", "reference": "x", **more} for one in questions]


def test_of_rows_whose_system_is_open_a_plan_counts_those_that_may_come(tmp_path) -> None:
    settings = config(tmp_path, rows(5, 11), "sft.max_length=300", "rl.max_prompt_length=300")
    sft, rl = planned_omissions(settings, BOTH)
    assert sft.startswith("WARNING: sft: ")
    assert "of 15 rows left out: no token of their answer is within 300 tokens; raise sft.max_length" in sft
    assert "of 15 rows left out: their prompts are longer than 300 tokens (the longest: " in rl
    assert "the vote decides" in sft
    assert planned_omissions(settings, ("sft",)) == [sft]
    assert planned_omissions(settings, ("evaluate",)) == []


def test_rows_whose_system_is_known_are_counted_where_they_belong(tmp_path) -> None:
    data = [*rows(4, 0, system="system1"), *rows(0, 6, system="system2")]
    for number, row in enumerate(data):
        row["question"] += f" ({number})"
    limits = ("rl.max_prompt_length=300", "sft.max_length=300", "sft.warmup_system2_examples=0")
    settings = config(tmp_path, data, *limits, "data.heldout=0")
    with pytest.raises(BadInputError, match=r"rl\.max_prompt_length is 300, and the prompts of all 6 rows") as refused:
        planned_omissions(settings, BOTH)
    enough = re.search(r"are longer: \d+ to (\d+) tokens", str(refused.value))[1]
    settings = config(tmp_path, data, *limits[1:], f"rl.max_prompt_length={enough}", "data.heldout=0")
    assert planned_omissions(settings, BOTH) == []
    assert planned_omissions(settings, ("sft",)) == []


@pytest.mark.parametrize(
    ("heldout", "confidence", "told"), [(5, 0.95, True), (6, 0.95, False), (4, 0.8, False), (7, 0.99, True)]
)
def test_so_few_held_out_rows_that_the_gate_can_call_nothing_better_are_told(
    tmp_path, heldout, confidence, told
) -> None:
    settings = config(tmp_path, rows(16, 0), f"data.heldout={heldout}", f"gate.confidence={confidence}")
    found = [line for line in planned_omissions(settings, (*BOTH, "gate")) if "held-out rows can be judged" in line]
    assert len(found) == told
    assert planned_omissions(settings, BOTH) == []


def test_rows_without_a_reference_end_a_plan_that_comes_to_rl(tmp_path) -> None:
    data = [{"question": f"{n}?", "answer": "x"} for n in range(6)]
    with pytest.raises(BadInputError, match="none of the 5 rows for RL has a reference answer") as refused:
        planned_omissions(config(tmp_path, data), BOTH)
    assert str(refused.value).endswith("rows.jsonl is recognised as questions and answers")


def test_what_the_vote_dealt_is_reported_exactly_and_too_few_rows_end_the_run(tmp_path) -> None:
    settings = config(tmp_path, rows(6, 3), "sft.max_length=300", "sft.warmup_system2_examples=0")
    examples = load_examples(settings.data, settings.seed)
    tally = {}
    for system, assigned in (("system1", examples[4:]), ("system2", examples[:4])):
        tally[system] = tmp_path / system
        tally[system].mkdir()
        write_records(tally[system] / "examples.jsonl", assigned)
    spoken = Spoken()("[6/18] tally:")
    log_forecast(settings, tally, BOTH, spoken)
    assert spoken.lines["tally"] == [
        "WARNING: ahead in sft: 3 of 5 rows left out: no token of their answer is within 300 tokens; "
        "raise sft.max_length"
    ]
    few = config(tmp_path, rows(6, 3), "rl.batch_size=20", "sft.warmup_system2_examples=0")
    with pytest.raises(BadInputError, match=r"one step of RL needs 5 different prompts .* there are only 4"):
        log_forecast(few, tally, BOTH, spoken)


def test_a_plan_says_what_prepare_will_leave_out(tmp_path) -> None:
    asked = "A shop sells four red kites and nine blue ones on every day of the week: how many kites in a week?"
    data = [*rows(8, 0), {"question": asked, "answer": "91", "reference": "91"}, *rows(0, 1)]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(data[0]) + "\n" + json.dumps({**data[0], "question": "Hello?"}) + "\n")
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": asked.upper(), "answer": "#### 91"}) + "\n")
    path = config(tmp_path, data).data.source
    chosen = load_config(
        preset="tiny",
        overrides=[
            f"data.sources=[{{source: {path}}}, {{source: {other}}}]",
            "data.length={max_tokens: 200}",
            "data.heldout=1",
            f"evaluate.benchmarks=[{{task: gsm8k, data: {bench}}}]",
        ],
    )
    resolved = make_plan(chosen).config
    lines = [line for line in planned_omissions(resolved, ("sft",)) if line.startswith("prepare: ")]
    assert lines[:2] == [f"prepare: 9 of 10 rows are of {path}", f"prepare: 1 of 10 rows are of {other}"]
    assert [line.partition(": ")[2].partition(":")[0] for line in lines[2:]] == [
        "1 of 12 rows left out",
        f"1 of 10 rows of {path} left out",
        "1 of 9 training rows left out",
    ]
