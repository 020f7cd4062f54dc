"""What voting costs: calls saved by deciding early, a tally of a million rows.

Run by `make bench`, or by hand: `python -m pytest tests/benchmarks/bench_voting.py -s`. What needs vLLM is measured by
`bench_vllm_voting.py` in its environment.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time

from lorapar.config import TeacherConfig, VotingConfig
from lorapar.progress import Silent
from lorapar.records import Example, Vote, write_json, write_records
from lorapar.store import seal
from lorapar.voting.ballots import Ballots
from lorapar.voting.collect import Collection, VoteJournal
from lorapar.voting.teacher_pool import TeacherPool
from tests.benchmarks.figures import at_most, now_at_most

ROWS = 20_000
AGREEMENT = 0.85
MILLION = 1_000_000
TALLY = """
import resource, sys, time
from pathlib import Path
from lorapar.stages.contract import StageCall, run_stage, stage_spec
root = Path(sys.argv[1])
spec = stage_spec("tally")
outputs = {name: root / "out" / name for name in spec.outputs}
for folder in (*outputs.values(), root / "scratch"):
    folder.mkdir(parents=True)
settings = spec.settings.model_validate({"teachers": [{"name": n} for n in "abcde"], "voting": {}, "round": "first"})
inputs = {"examples": (root / "rows",), "votes": (root / "votes",)}
start = time.monotonic()
run_stage("tally", StageCall(settings, inputs, outputs, root / "scratch"))
print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


class Simulated:
    """A teacher that says what a table says."""

    def __init__(self, name, opinions) -> None:
        self.name, self.opinions = name, opinions

    def votes(self, examples, done=frozenset()):
        """One vote a row."""
        for row in examples:
            if row.id not in done:
                label = self.opinions[row.id]
                yield Vote(example_id=row.id, teacher=self.name, label=label, template="t", raw="", tokens=100)


def simulated_patterns(rng: random.Random) -> list[str]:
    """Five teachers who each err independently, as often as makes two of them agree on 85% of the rows."""
    error = (1 - (2 * AGREEMENT - 1) ** 0.5) / 2
    patterns = []
    for _ in range(ROWS):
        truth = rng.random() < 0.5
        patterns.append("".join("12"[truth ^ (rng.random() < error)] for _ in range(5)))
    return patterns


def test_deciding_early_saves_calls_and_changes_no_label(tmp_path, figure) -> None:
    patterns = simulated_patterns(random.Random(0))
    agreed = sum(pattern[0] == pattern[1] for pattern in patterns) / ROWS
    rows = [Example(id=f"r{number}", question="q", answer="a") for number in range(ROWS)]
    teachers = [TeacherConfig(name=f"t{place}") for place in range(5)]
    ballots = Ballots(teachers, VotingConfig())
    by_name = {
        f"t{place}": Simulated(
            f"t{place}", {row.id: f"system{p[place]}" for row, p in zip(rows, patterns, strict=True)}
        )
        for place in range(5)
    }
    found, calls, votes = {}, 0, []
    for round_name in ("first", "rest"):
        folder = tmp_path / round_name
        folder.mkdir()
        open_rows = [row for row in rows if row.id not in found or not ballots.outcome(found[row.id]).decided]
        write_records(folder / "examples.jsonl", open_rows)
        open_ids = {row.id for row in open_rows}
        write_records(folder / "votes.jsonl", [vote for vote in votes if vote.example_id in open_ids])
        journal = VoteJournal(folder / "journal.jsonl")
        collection = Collection(folder, ballots, round_name)
        calls += sum(collection.ask(TeacherPool(by_name.__getitem__), journal, Silent()).calls.values())
        votes = list(journal.recover())
        found |= collection.patterns
    labels = [ballots.outcome(found[row.id]).system for row in rows]
    assert labels == [ballots.outcome(pattern).system for pattern in patterns]
    what = f"calls of five teachers that agree {agreed:.1%} in pairs, {ROWS} rows, against asking all"
    figure(what, 5 * ROWS, calls, at_most(0.7), unit="")
    assert abs(agreed - AGREEMENT) < 0.01


def test_a_million_rows_are_counted_in_seconds_with_bounded_memory(tmp_path, figure) -> None:
    make_million(tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", TALLY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, megabytes = map(float, done.stdout.split())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figure(f"tally of {MILLION} rows, 3 votes each", None, seconds, now_at_most(30))
    figure("of this, processor time", None, cpu)
    figure("of this, peak memory", None, megabytes, now_at_most(600), unit="MB")


def make_million(root) -> None:
    """Rows and votes of three of five teachers, as the stages write them."""
    rng = random.Random(0)
    for name in ("rows", "votes"):
        (root / name).mkdir()
    start = time.monotonic()
    with (root / "rows" / "examples.jsonl").open("w") as rows, (root / "votes" / "votes.jsonl").open("w") as votes:
        for number in range(MILLION):
            split = "heldout" if number % 50 == 0 else "train"
            rows.write(
                f'{{"id":"row-{number:07}","question":"How many are {number} and {number % 13} of them?",'
                f'"answer":"There are {number} of them, because one adds them up.","split":"{split}"}}\n'
            )
            truth = rng.random() < 0.5
            for name in "abc":
                label = truth ^ (rng.random() < 0.08)
                votes.write(
                    f'{{"example_id":"row-{number:07}","teacher":"{name}","label":"system{1 + label}","weight":1.0,'
                    f'"confidence":{rng.random()},"log_probs":{{"system1":-1.25,"system2":-0.5}},'
                    f'"template":"{"a" * 64}","raw":"System1","tokens":100}}\n'
                )
    write_json(root / "votes" / "summary.json", {"teachers": {}})
    seal(root / "rows", "bench.rows")
    seal(root / "votes", "bench.votes")
    print(f"\nmade in {time.monotonic() - start:.0f} s")
