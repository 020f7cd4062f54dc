"""Who is asked about which rows. The teachers here say what a table says: the rounds are under test, not a model."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.config import TeacherConfig, VotingConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.progress import Silent
from lorapar.records import Example, Vote, write_json, write_records
from lorapar.voting import collect
from lorapar.voting.ballots import Ballots
from lorapar.voting.collect import Collection, VoteJournal
from lorapar.voting.teacher_pool import TeacherPool, VoteCache
from tests.notes import Notes


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
            opinion = self.opinions[example.id]
            label = None if opinion == "x" else f"system{opinion}"
            yield Vote(example_id=example.id, teacher=self.name, label=label, template="digest", raw="", tokens=10)


def rules(teachers: int, **voting) -> Ballots:
    return Ballots([TeacherConfig(name=f"t{place}") for place in range(teachers)], VotingConfig(**voting))


def scripted_teachers(patterns):
    """Teachers that vote as the patterns say, and the rows they vote on."""
    rows = [Example(id=f"r{number}", question=f"q{number}", answer="a") for number in range(len(patterns))]
    count = len(patterns[0])
    teachers = {
        f"t{place}": Scripted(f"t{place}", {row.id: p[place] for row, p in zip(rows, patterns, strict=True)})
        for place in range(count)
    }
    return rows, teachers


def hold(folder, ballots, round_name, teachers):
    collection = Collection(folder, ballots, round_name)
    done = collection.ask(TeacherPool(teachers.__getitem__), VoteJournal(folder / "journal.jsonl"), Silent())
    return collection, done


def folder_of(path, rows, votes=None):
    path.mkdir(parents=True, exist_ok=True)
    write_records(path / "examples.jsonl", rows)
    if votes is not None:
        write_records(path / "votes.jsonl", votes)
    return path


def test_the_first_round_asks_the_quorum_about_every_row(tmp_path) -> None:
    rows, teachers = scripted_teachers(["11122", "12121", "22222"])
    collection, done = hold(folder_of(tmp_path, rows), rules(5), "first", teachers)
    assert [len(teachers[f"t{place}"].asked) for place in range(5)] == [3, 3, 3, 0, 0]
    assert collection.patterns == {"r0": "111--", "r1": "121--", "r2": "222--"}
    assert done.calls == {"t0": 3, "t1": 3, "t2": 3}
    assert sum(done.tokens.values()) == 90


def test_the_other_teachers_are_asked_one_after_another_until_a_row_is_decided(tmp_path) -> None:
    patterns = ["12111", "12122", "12112"]
    rows, teachers = scripted_teachers(patterns)
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
    done = collection.ask(TeacherPool(nobody), VoteJournal(tmp_path / "journal.jsonl"), Silent())
    assert (done.calls, collection.patterns) == ({}, {})
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_held_out_rows_with_a_known_system_are_not_asked_about(tmp_path) -> None:
    rows, teachers = scripted_teachers(["11", "22"])
    known = Example(id="known", question="q", answer="a", split="heldout", known_system="system1")
    hold(folder_of(tmp_path, [known, *rows]), rules(2), "first", teachers)
    assert teachers["t0"].asked == ["r0", "r1"]


def test_after_a_stop_only_what_is_missing_is_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(collect, "SEGMENT_ROWS", 2)
    rows, teachers = scripted_teachers(["11", "12", "21", "22", "11"])
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

    again = scripted_teachers(["11", "12", "21", "22", "11"])[1]
    collection, done = hold(folder, rules(2), "first", again)

    assert again["t0"].asked == []
    assert again["t1"].asked == ["r2", "r3", "r4"]
    assert done.resumed == 7
    assert done.calls == {"t0": 5, "t1": 5}
    assert list(collection.patterns.values()) == ["11", "12", "21", "22", "11"]
    votes = [(vote.teacher, vote.example_id) for vote in VoteJournal(folder / "journal.jsonl").recover()]
    assert len(votes) == len(set(votes)) == 10


def test_votes_on_other_data_are_refused(tmp_path) -> None:
    rows, teachers = scripted_teachers(["11"])
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
    rows, teachers = scripted_teachers(patterns)
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


class Failing(Scripted):
    """A teacher that fails after some votes."""

    def __init__(self, name, opinions, after) -> None:
        super().__init__(name, opinions)
        self.after = after

    def votes(self, examples, done=frozenset()):
        """As many votes as it has left."""
        for vote in super().votes(examples, done):
            if not self.after:
                raise UnreachableError(f"teacher '{self.name}': row {vote.example_id} http://a: no answer")
            self.after -= 1
            yield vote


def with_a_failing(teachers, name, after):
    return {**teachers, name: Failing(name, teachers[name].opinions, after)}


def test_a_failed_teacher_is_named_with_what_is_safe(tmp_path) -> None:
    rows, teachers = scripted_teachers(["111", "222", "121"])
    folder = folder_of(tmp_path, rows)
    with pytest.raises(UnreachableError) as caught:
        hold(folder, rules(3), "first", with_a_failing(teachers, "t1", 1))
    assert str(caught.value) == (
        "teacher 't1': row r1 http://a: no answer; 4 votes of this round are safe, the same command asks for the rest"
    )
    again = scripted_teachers(["111", "222", "121"])[1]
    collection, done = hold(folder, rules(3), "first", again)
    assert (again["t0"].asked, again["t1"].asked) == ([], ["r1", "r2"])
    assert done.resumed == 4
    assert collection.failed == {}


def test_the_round_goes_on_without_a_failed_teacher_where_enough_are_left(tmp_path) -> None:
    rows, teachers = scripted_teachers(["1122", "2211", "1222"])
    ballots = rules(4, min_teachers=3)
    notes = Notes()
    collection = Collection(folder_of(tmp_path / "first", rows), ballots, "first")
    collection.ask(
        TeacherPool(with_a_failing(teachers, "t1", 1).__getitem__), VoteJournal(tmp_path / "journal.jsonl"), notes
    )
    assert collection.patterns == {"r0": "112-", "r1": "2x1-", "r2": "1x2-"}
    assert list(collection.failed) == ["t1"]
    (line,) = notes.lines
    assert line.startswith("teacher 't1': row r1 http://a: no answer; going on without it")

    votes = list(VoteJournal(tmp_path / "journal.jsonl").recover())
    folder = folder_of(tmp_path / "rest", rows, votes)
    write_json(folder / "failed.json", collection.failed)
    rest, _ = hold(folder, ballots, "rest", teachers)
    assert rest.patterns == {"r0": "1122", "r1": "2x11", "r2": "1x22"}
    assert all(ballots.outcome(pattern).decided for pattern in rest.patterns.values())

    (folder / "journal.jsonl").unlink()
    with pytest.raises(UnreachableError, match="teacher 't3'"):  # a second one is one too many
        hold(folder, ballots, "rest", with_a_failing(teachers, "t3", 0))


def test_what_is_remembered_is_not_asked_and_opens_no_teacher(tmp_path) -> None:
    config = TeacherConfig(name="t0")

    def cache():
        return VoteCache(tmp_path / "votes.sqlite", [config], lambda teacher: "identity")

    rows, teachers = scripted_teachers(["1", "2", "1", "2"])
    with cache() as open_cache:
        asked = Collection(folder_of(tmp_path / "one", rows[:3]), rules(1), "first")
        asked.ask(TeacherPool(teachers.__getitem__, open_cache), VoteJournal(tmp_path / "one.jsonl"), Silent())
    grown = scripted_teachers(["1", "2", "1", "2"])[1]
    with cache() as open_cache:
        more = Collection(folder_of(tmp_path / "two", rows), rules(1), "first")
        done = more.ask(TeacherPool(grown.__getitem__, open_cache), VoteJournal(tmp_path / "two.jsonl"), Silent())
    assert grown["t0"].asked == ["r3"]
    assert (done.calls, done.cached, done.tokens) == ({"t0": 1}, {"t0": 3}, {"t0": 10})
    assert more.patterns == {"r0": "1", "r1": "2", "r2": "1", "r3": "2"}

    def nobody(name):
        raise AssertionError(f"{name} was opened")

    with cache() as open_cache:
        same = Collection(folder_of(tmp_path / "three", rows), rules(1), "first")
        done = same.ask(TeacherPool(nobody, open_cache), VoteJournal(tmp_path / "three.jsonl"), Silent())
    assert (done.calls, done.cached) == ({}, {"t0": 4})


def test_a_stopped_round_with_remembered_votes_goes_on_where_it_was(tmp_path) -> None:
    config = TeacherConfig(name="t0")
    rows, teachers = scripted_teachers(["1", "2", "1", "2", "1"])
    with VoteCache(tmp_path / "votes.sqlite", [config], lambda teacher: "identity") as cache:
        for row in rows[:2]:
            vote = next(teachers["t0"].votes([row]))
            cache.keep("t0", row, vote)
    folder = folder_of(tmp_path / "rows", rows)

    def ask(teacher):
        with VoteCache(tmp_path / "votes.sqlite", [config], lambda teacher: "identity") as cache:
            collection = Collection(folder, rules(1), "first")
            return collection.ask(
                TeacherPool({"t0": teacher}.__getitem__, cache), VoteJournal(tmp_path / "j"), Silent()
            )

    with pytest.raises(UnreachableError):
        ask(Failing("t0", teachers["t0"].opinions, 1))
    again = scripted_teachers(["1", "2", "1", "2", "1"])[1]["t0"]
    done = ask(again)
    assert again.asked == ["r3", "r4"]
    assert (done.calls, done.cached, done.resumed) == ({"t0": 3}, {"t0": 2}, 3)


def test_calibration_measures_each_teacher_before_its_first_vote(tmp_path) -> None:
    class Biased(Scripted):
        def votes(self, examples, done=frozenset()):
            """System 1 always, by 4, 5, 6 and so on."""
            for vote in super().votes(examples, done):
                odds = 4.0 + int(vote.example_id[1:])
                yield vote.model_copy(update={"label": "system1", "log_probs": {"system1": odds, "system2": 0.0}})

    rows, _ = scripted_teachers(["1"] * 4)
    teacher = Biased("t0", dict.fromkeys((row.id for row in rows), "1"))
    collection = Collection(folder_of(tmp_path, rows), rules(1), "first")
    school_ = TeacherPool({"t0": teacher}.__getitem__, None, rows)
    collection.ask(school_, VoteJournal(tmp_path / "journal.jsonl"), Silent())
    assert collection.patterns == {"r0": "2", "r1": "2", "r2": "1", "r3": "1"}
    votes = list(VoteJournal(tmp_path / "journal.jsonl").recover())
    assert {vote.uncalibrated for vote in votes} == {"system1"}


def test_a_store_that_fails_is_not_the_teachers_fault(tmp_path) -> None:
    class Lost:
        def list(self, prefix=""):
            """Nobody answers."""
            raise UnreachableError("s3://bucket: no answer")

    rows, teachers = scripted_teachers(["11", "22"])
    config = [TeacherConfig(name=name) for name in teachers]
    notes = Notes()
    with VoteCache(tmp_path / "votes.sqlite", config, lambda teacher: teacher.name, Lost()) as cache:
        collection = Collection(folder_of(tmp_path, rows), rules(2, min_teachers=1), "first")
        with pytest.raises(UnreachableError, match=r"^s3://bucket: no answer$"):
            collection.ask(TeacherPool(teachers.__getitem__, cache), VoteJournal(tmp_path / "journal.jsonl"), notes)
    assert (collection.failed, notes.lines) == ({}, [])


def test_a_row_that_a_teacher_will_not_answer_is_decided_by_the_others(tmp_path) -> None:
    rows, teachers = scripted_teachers(["1x2", "11-", "x11", "xxx"])
    folder = folder_of(tmp_path / "first", rows)
    first, done = hold(folder, rules(3), "first", teachers)
    assert first.patterns == {"r0": "1x-", "r1": "11-", "r2": "x1-", "r3": "xx-"}
    assert (done.calls, done.abstained) == ({"t0": 2, "t1": 2}, {"t0": 2, "t1": 2})
    votes = list(VoteJournal(folder / "journal.jsonl").recover())
    assert sum(vote.label is None for vote in votes) == 4
    open_rows = [row for row in rows if not rules(3).outcome(first.patterns[row.id]).decided]
    later = folder_of(tmp_path / "rest", open_rows, [vote for vote in votes if vote.example_id != "r1"])
    rest, done = hold(later, rules(3), "rest", teachers)
    assert rest.patterns == {"r0": "1x2", "r2": "x11", "r3": "xxx"}
    assert done.abstained == {"t2": 1}  # few rows, and all of them may be of the kind that is refused
    assert rules(3).outcome("xxx").decided
    assert rules(3).outcome("xxx").system is None


@pytest.mark.parametrize("rows_there", [3, 50])
def test_a_teacher_that_answers_no_row_ends_with_one_line_and_is_asked_again_later(tmp_path, rows_there) -> None:
    rows, teachers = scripted_teachers(["1x2"] * rows_there)
    with pytest.raises(
        BadInputError, match=rf"all {min(rows_there, 20)} rows that it was asked about failed like this"
    ):
        hold(folder_of(tmp_path, rows), rules(3), "first", teachers)
    assert len(teachers["t1"].asked) == min(rows_there, 20)
    teachers["t1"].opinions = dict.fromkeys(teachers["t1"].opinions, "1")
    later, done = hold(folder_of(tmp_path, rows), rules(3), "first", teachers)
    assert set(later.patterns.values()) == {"11-"}
    assert done.resumed == rows_there


def test_an_abstention_is_not_remembered_for_other_runs(tmp_path) -> None:
    rows, teachers = scripted_teachers(["1", "x"])
    settings = [TeacherConfig(name="t0")]
    for _ in range(2):
        with VoteCache(tmp_path / "votes.sqlite", settings, lambda teacher: teacher.name) as cache:
            list(TeacherPool(teachers.__getitem__, cache).votes("t0", rows))
            assert [vote.example_id for vote in cache.recall("t0", rows)] == ["r0"]
