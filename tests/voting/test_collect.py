"""Who is asked about which rows. The teachers here say what a table says: the rounds are under test, not a model."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.config import TeacherConfig, VotingConfig
from lorapar.errors import BadInputError
from lorapar.progress import Silent
from lorapar.records import Example, Vote, write_records
from lorapar.voting import collect
from lorapar.voting.ballots import Ballots
from lorapar.voting.collect import Collection
from lorapar.voting.journal import VoteJournal
from lorapar.voting.school import School


class Scripted:
    """A teacher whose opinions are given; remembers what it was asked."""

    def __init__(self, name, opinions) -> None:
        self.name, self.opinions, self.asked = name, opinions, []

    def votes(self, examples, done=frozenset()):
        """One vote a row."""
        for example in examples:
            if example.id in done:
                continue
            self.asked.append(example.id)
            label = f"system{self.opinions[example.id]}"
            yield Vote(example_id=example.id, teacher=self.name, label=label, template="digest", raw="", tokens=10)


def rules(teachers: int, **voting) -> Ballots:
    return Ballots([TeacherConfig(name=f"t{place}") for place in range(teachers)], VotingConfig(**voting))


def school(patterns):
    """Teachers that vote as the patterns say, and the rows they vote on."""
    rows = [Example(id=f"r{number}", question="q", answer="a") for number in range(len(patterns))]
    count = len(patterns[0])
    teachers = {
        f"t{place}": Scripted(f"t{place}", {row.id: p[place] for row, p in zip(rows, patterns, strict=True)})
        for place in range(count)
    }
    return rows, teachers


def hold(folder, ballots, round_name, teachers):
    collection = Collection(folder, ballots, round_name)
    done = collection.ask(School(teachers.__getitem__), VoteJournal(folder / "journal.jsonl"), Silent())
    return collection, done


def folder_of(path, rows, votes=None):
    path.mkdir(parents=True, exist_ok=True)
    write_records(path / "examples.jsonl", rows)
    if votes is not None:
        write_records(path / "votes.jsonl", votes)
    return path


def test_the_first_round_asks_the_quorum_about_every_row(tmp_path) -> None:
    rows, teachers = school(["11122", "12121", "22222"])
    collection, done = hold(folder_of(tmp_path, rows), rules(5), "first", teachers)
    assert [len(teachers[f"t{place}"].asked) for place in range(5)] == [3, 3, 3, 0, 0]
    assert collection.patterns == {"r0": "111--", "r1": "121--", "r2": "222--"}
    assert done.calls == {"t0": 3, "t1": 3, "t2": 3}
    assert sum(done.tokens.values()) == 90


def test_the_other_teachers_are_asked_one_after_another_until_a_row_is_decided(tmp_path) -> None:
    patterns = ["12111", "12122", "12112"]
    rows, teachers = school(patterns)
    first, _ = hold(folder_of(tmp_path / "first", rows), rules(5), "first", teachers)
    assert set(first.patterns.values()) == {"121--"}
    votes = list(VoteJournal(tmp_path / "first" / "journal.jsonl").recover())
    rest, done = hold(folder_of(tmp_path / "rest", rows, votes), rules(5), "rest", teachers)
    assert teachers["t3"].asked == ["r0", "r1", "r2"]
    assert teachers["t4"].asked == ["r1"]
    assert rest.patterns == {"r0": "1211-", "r1": "12122", "r2": "1211-"}
    assert done.calls == {"t3": 3, "t4": 1}


def test_an_empty_round_opens_no_teacher(tmp_path) -> None:
    def nobody(name):
        raise AssertionError(f"{name} was opened")

    collection = Collection(folder_of(tmp_path, [], []), rules(3), "rest")
    done = collection.ask(School(nobody), VoteJournal(tmp_path / "journal.jsonl"), Silent())
    assert (done.calls, collection.patterns) == ({}, {})
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_held_out_rows_with_a_known_system_are_not_asked_about(tmp_path) -> None:
    rows, teachers = school(["11", "22"])
    known = Example(id="known", question="q", answer="a", split="heldout", known_system="system1")
    hold(folder_of(tmp_path, [known, *rows]), rules(2), "first", teachers)
    assert teachers["t0"].asked == ["r0", "r1"]


def test_after_a_stop_only_what_is_missing_is_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(collect, "SEGMENT_ROWS", 2)
    rows, teachers = school(["11", "12", "21", "22", "11"])
    folder = folder_of(tmp_path, rows)
    append = VoteJournal.append

    def stopping(self, vote):
        append(self, vote)
        if (vote.teacher, vote.example_id) == ("t1", "r1"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VoteJournal, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            hold(folder, rules(2), "first", teachers)
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"example_id": "r2", "teach')

    again = school(["11", "12", "21", "22", "11"])[1]
    collection, done = hold(folder, rules(2), "first", again)

    assert again["t0"].asked == []
    assert again["t1"].asked == ["r2", "r3", "r4"]
    assert done.resumed == 7
    assert done.calls == {"t0": 5, "t1": 5}
    assert list(collection.patterns.values()) == ["11", "12", "21", "22", "11"]
    votes = [(vote.teacher, vote.example_id) for vote in VoteJournal(folder / "journal.jsonl").recover()]
    assert len(votes) == len(set(votes)) == 10


def test_votes_on_other_data_are_refused(tmp_path) -> None:
    rows, teachers = school(["11"])
    stranger = Vote(example_id="other", teacher="t0", label="system1", template="d", raw="")
    with pytest.raises(BadInputError, match=r"teacher 't0' is on row other, which is not among the rows"):
        hold(folder_of(tmp_path, rows, [stranger]), rules(2), "rest", teachers)


@settings(max_examples=30, deadline=None)
@given(
    patterns=st.lists(st.text("12", min_size=5, max_size=5), min_size=1, max_size=12),
    voting=st.fixed_dictionaries(
        {
            "tie": st.sampled_from(["system1", "system2", "hold_out"]),
            "min_agreement": st.sampled_from([0.0, 0.7, 0.9]),
            "below_agreement": st.sampled_from(["keep", "hold_out"]),
            "quorum": st.integers(1, 5),
        }
    ),
)
def test_two_rounds_give_the_labels_of_asking_everybody(tmp_path_factory, patterns, voting) -> None:
    root = tmp_path_factory.mktemp("rounds")
    ballots = rules(5, **voting)
    rows, teachers = school(patterns)
    first, _ = hold(folder_of(root / "first", rows), ballots, "first", teachers)
    open_rows = [row for row in rows if not ballots.outcome(first.patterns[row.id]).decided]
    votes = [
        vote
        for vote in VoteJournal(root / "first" / "journal.jsonl").recover()
        if vote.example_id in {row.id for row in open_rows}
    ]
    rest, _ = hold(folder_of(root / "rest", open_rows, votes), ballots, "rest", teachers)
    for row, everybody in zip(rows, patterns, strict=True):
        found = ballots.outcome((first.patterns | rest.patterns)[row.id])
        full = ballots.outcome(everybody)
        assert found.decided
        assert (found.system, found.below_agreement) == (full.system, full.below_agreement)
    asked = Counter(name for name, teacher in teachers.items() for _ in teacher.asked)
    assert all(asked[f"t{place}"] == len(rows) for place in range(voting["quorum"]))
