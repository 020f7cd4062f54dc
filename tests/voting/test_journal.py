"""Votes are on disk as they come, and a torn end costs only the torn vote."""

from __future__ import annotations

import pytest

from lorapar.records import Vote, read_records
from lorapar.voting.collect import VoteJournal, copy_in_order


def vote(number: int) -> Vote:
    return Vote(example_id=f"r{number}", teacher="t", label="system1", template="d", raw="fact", confidence=0.75)


def test_what_was_appended_is_recovered_and_more_can_follow(tmp_path) -> None:
    path = tmp_path / "votes.jsonl"
    assert list(VoteJournal(path).recover()) == []
    for start in (0, 2):
        with VoteJournal(path) as journal:
            journal.append(vote(start))
            journal.append(vote(start + 1))
    assert list(VoteJournal(path).recover()) == [vote(number) for number in range(4)]


@pytest.mark.parametrize("keep_bytes", [1, 40, -2, -1])
def test_a_torn_last_line_is_cut_off_and_the_rest_is_kept(tmp_path, keep_bytes) -> None:
    path = tmp_path / "votes.jsonl"
    with VoteJournal(path) as journal:
        journal.append(vote(0))
        journal.append(vote(1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:keep_bytes])
    assert list(VoteJournal(path).recover()) == [vote(0)]
    with VoteJournal(path) as journal:
        journal.append(vote(2))
    assert list(VoteJournal(path).recover()) == [vote(0), vote(2)]


def test_votes_are_safe_after_so_many_votes_or_so_many_seconds(tmp_path) -> None:
    with VoteJournal(tmp_path / "a", flush_votes=2, flush_seconds=1e9) as journal:
        journal.append(vote(0))
        assert journal.path.read_bytes() == b""
        journal.append(vote(1))
        assert len(journal.path.read_bytes().splitlines()) == 2
    with VoteJournal(tmp_path / "b", flush_votes=1000, flush_seconds=0.0) as journal:
        journal.append(vote(0))
        assert len(journal.path.read_bytes().splitlines()) == 1


def test_an_interruption_loses_nothing_that_was_appended(tmp_path) -> None:
    def work():
        with VoteJournal(tmp_path / "votes.jsonl") as journal:
            journal.append(vote(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(VoteJournal(tmp_path / "votes.jsonl").recover()) == [vote(0)]


def test_the_copy_is_ordered_by_teacher_and_row_and_does_not_tell_what_was_remembered(tmp_path) -> None:
    rows, teachers = ["r0", "r1", "r2"], ["a", "b"]
    votes = [
        vote(number).model_copy(update={"teacher": name, "tokens": 10, "cached": name == "b" or None, "raw": raw})
        for number, name, raw in [(2, "a", "x"), (1, "b", ',"cached":true}'), (0, "a", "ü\n"), (0, "b", "y")]
    ]
    with VoteJournal(tmp_path / "journal") as journal:
        for one in votes:
            journal.append(one)
    tokens = copy_in_order(journal.path, tmp_path / "votes.jsonl", teachers, rows)
    copied = list(read_records(tmp_path / "votes.jsonl", Vote))
    assert [(one.teacher, one.example_id) for one in copied] == [("a", "r0"), ("a", "r2"), ("b", "r0"), ("b", "r1")]
    assert tokens == 40
    expected = [one.model_copy(update={"cached": None}) for one in (votes[2], votes[0], votes[3], votes[1])]
    assert copied == expected
