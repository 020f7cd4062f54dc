"""The tally: labels, rows by system, what is open, and the figures; checked by counting by hand."""

from __future__ import annotations

import pytest

from lorapar.errors import BadInputError
from lorapar.records import Example, Label, Vote, read_json, read_records, write_json, write_records
from lorapar.stages.contract import stage_spec
from lorapar.store import seal

TEACHERS = tuple({"name": name} for name in ("a", "b", "c"))


def example(example_id: str, split="train", known=None) -> Example:
    return Example(id=example_id, question=f"q {example_id}", answer="a", split=split, known_system=known)


def votes_folder(folder, patterns, confidence=0.9, teachers="abc", about=None, failed=None, plain=None):
    """Votes as patterns by row: one mark a teacher, `-` for none."""
    folder.mkdir(parents=True)
    votes = [
        Vote(
            example_id=row,
            teacher=name,
            label=f"system{mark}" if mark != "x" else None,
            confidence=confidence.get(row, 0.9) if isinstance(confidence, dict) else confidence,
            template="d",
            raw="",
            tokens=10,
            uncalibrated=f"system{plain[row][teachers.index(name)]}" if plain and mark != "x" else None,
        )
        for row, pattern in patterns.items()
        for name, mark in zip(teachers, pattern, strict=True)
        if mark != "-"
    ]
    write_records(folder / "votes.jsonl", votes)
    write_json(folder / "summary.json", {"teachers": about or {}, "failed": failed or {}})
    seal(folder, "vote.votes")
    return folder


def tally(kit, tmp_path, rows, patterns, round_name="rest", **changed):
    voting, about, edits = changed.pop("voting", {}), changed.pop("about", None), changed.pop("edits", {})
    inputs = {
        "examples": kit.rows_folder(tmp_path / "rows", rows),
        "votes": (votes_folder(tmp_path / "votes", patterns, about=about, **changed),),
    }
    settings = {"teachers": TEACHERS, "voting": voting, "round": round_name, "edits": edits}
    return kit.run("tally", tmp_path / "out", settings, inputs)


def ids(folder, file="examples.jsonl") -> list[str]:
    return [row.id for row in read_records(folder / file, Example)]


def labels(out) -> dict[str, Label]:
    return {label.example_id: label for label in read_records(out / "labels" / "labels.jsonl", Label)}


def summary(out):
    return read_json(out / "labels" / "summary.json")


def test_rows_go_where_their_votes_send_them(kit, tmp_path) -> None:
    rows = [
        example("r1"),
        example("r2"),
        example("e1", "heldout"),
        example("e2", "heldout"),
        example("k1", "heldout", "system1"),
        example("k2", "heldout", "system2"),
    ]
    patterns = {"r1": "11-", "r2": "122", "e1": "22-", "e2": "121"}
    metrics, out = tally(kit, tmp_path, rows, patterns)
    assert ids(out / "system1") == ["r1"]
    assert ids(out / "system2") == ["r2"]
    assert ids(out / "heldout", "system1.jsonl") == ["e2", "k1"]
    assert ids(out / "heldout", "system2.jsonl") == ["e1", "k2"]
    assert ids(out / "undecided") == []
    found = labels(out)
    assert set(found) == set(patterns)  # rows whose system the data names have no label
    assert found["r2"].system == "system2"
    assert found["r2"].votes == {"system1": 1.0, "system2": 2.0}
    assert found["r2"].agreement == pytest.approx(2 / 3)
    assert metrics["system1_rows"] == metrics["system2_rows"] == 1
    assert summary(out)["heldout_rows_known"] == {"system1": 1, "system2": 1}


def test_development_rows_are_voted_on_like_others_and_go_to_no_system(kit, tmp_path) -> None:
    rows = [
        *(example("r1"), example("r2"), example("e1", "heldout", "system1")),
        *(example("d1", "development"), example("d2", "development", "system2"), example("e2", "heldout", "system2")),
    ]
    out = tally(kit, tmp_path, rows, {"r1": "11-", "r2": "22-", "d1": "22-"})[1]
    assert [ids(out / slot) for slot in ("system1", "system2")] == [["r1"], ["r2"]]
    assert [ids(out / "heldout", f"{system}.jsonl") for system in ("system1", "system2")] == [["e1"], ["e2"]]
    assert labels(out)["d1"].system == "system2"
    assert summary(out)["development_rows"] == {"system1": 0, "system2": 2}
    assert summary(out)["heldout_rows_known"] == {"system1": 1, "system2": 1}


def test_labels_of_the_data_stand_for_votes_and_rows_without_one_are_voted_on(kit, tmp_path) -> None:
    rows = [
        *(example("r1", known="system2"), example("r2", known="system1"), example("r3")),
        *(example("e1", "heldout", "system1"), example("e2", "heldout")),
    ]
    patterns = {"r3": "22-", "e2": "11-"}
    metrics, out = tally(kit, tmp_path, rows, patterns, voting={"labels": "data"})
    assert [ids(out / slot) for slot in ("system1", "system2")] == [["r2"], ["r1", "r3"]]
    assert [ids(out / "heldout", f"{system}.jsonl") for system in ("system1", "system2")] == [["e1", "e2"], []]
    assert {row: (one.system, one.given, one.votes["system2"]) for row, one in labels(out).items()} == {
        "r1": ("system2", "data", 0.0),
        "r2": ("system1", "data", 0.0),
        "r3": ("system2", None, 2.0),
        "e2": ("system1", None, 0.0),
    }
    assert metrics["given_rows"] == 2
    message = summary(out)
    assert message["given"] == {"labels": "data", "rows": {"system1": 1, "system2": 1}, "gold_accuracy": 1.0}
    assert (message["rows"]["voted"], message["rows"]["undecided"], message["calls"], message["calls_saved"]) == (
        2,
        0,
        4,
        2,
    )


def test_labels_by_chance_need_no_vote_are_set_once_and_a_persons_edit_overrules_them(kit, tmp_path) -> None:
    rows = [*(example(f"r{place}", known="system1") for place in range(20)), example("e1", "heldout", "system2")]
    file = tmp_path / "votes.csv"
    drawn = {}
    for round_name in ("first", "rest"):
        _, out = tally(kit, tmp_path / round_name, rows, {}, round_name, voting={"labels": "random"})
        drawn[round_name] = {row: one.system for row, one in labels(out).items()}
        assert {one.given for one in labels(out).values()} == {"random"}
        assert ids(out / "undecided") == []
        assert summary(out)["rows"]["undecided"] == summary(out)["rows"]["voted"] == 0
        right = sum(system == "system1" for system in drawn[round_name].values())
        assert summary(out)["given"]["gold_accuracy"] == right / 20
    assert drawn["first"] == drawn["rest"]
    assert set(drawn["rest"].values()) == {"system1", "system2"}
    moved = next(row for row, system in drawn["rest"].items() if system == "system1")
    file.write_text(f"example_id,edited\n{moved},system2\n")
    _, out = tally(kit, tmp_path / "edited", rows, {}, voting={"labels": "random"}, edits={"source": str(file)})
    assert moved in ids(out / "system2")
    assert (labels(out)[moved].system, labels(out)[moved].edited) == ("system2", True)


def test_chance_that_leaves_a_system_empty_is_reported_as_such(kit, tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"no training row is of system\d: voting.labels assigns them by chance"):
        tally(kit, tmp_path, [example("r1")], {}, voting={"labels": "random"})


def test_the_first_round_leaves_rows_open_with_their_votes(kit, tmp_path) -> None:
    rows = [example("r1"), example("r2"), example("r3")]
    metrics, out = tally(kit, tmp_path, rows, {"r1": "11-", "r2": "12-", "r3": "11-"}, "first")
    assert ids(out / "system1") == ["r1", "r3"]
    assert ids(out / "system2") == []  # not an error yet
    assert ids(out / "undecided") == ["r2"]
    votes = list(read_records(out / "undecided" / "votes.jsonl", Vote))
    assert [(vote.example_id, vote.teacher) for vote in votes] == [("r2", "a"), ("r2", "b")]
    assert not labels(out)["r2"].decided
    assert (metrics["undecided_rows"], metrics["calls"], metrics["calls_saved"]) == (1, 6, 2)
    assert metrics["decided_early_share"] == pytest.approx(2 / 3)


def test_votes_of_both_rounds_are_taken_together(kit, tmp_path) -> None:
    rows = [example("r1"), example("r2")]
    first = votes_folder(tmp_path / "first", {"r1": "11-", "r2": "12-"}, about={"a": {"model": "m"}})
    rest = votes_folder(tmp_path / "rest", {"r2": "2"}, teachers="c", about={"c": {"model": "n"}})
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", rows), "votes": (first, rest)}
    settings = {"teachers": TEACHERS, "voting": {}, "round": "rest"}
    _, out = kit.run("tally", tmp_path / "out", settings, inputs)
    assert {row: label.system for row, label in labels(out).items()} == {"r1": "system1", "r2": "system2"}
    teachers = summary(out)["teachers"]
    assert [teachers[name].get("model") for name in "abc"] == ["m", None, "n"]
    assert [teachers[name]["round"] for name in "abc"] == ["first", "first", "rest"]
    assert [teachers[name]["calls"] for name in "abc"] == [2, 2, 1]


def test_ties_and_rows_below_the_least_agreement_can_be_held_out(kit, tmp_path) -> None:
    rows = [example(name) for name in ("r1", "r2", "r3", "r4")]
    patterns = {"r1": "111", "r2": "222", "r3": "112", "r4": "221"}
    voting = {"min_agreement": 0.9, "below_agreement": "hold_out"}
    metrics, out = tally(kit, tmp_path, rows, patterns, voting=voting)
    assert ids(out / "system1") == ["r1"]
    assert ids(out / "system2") == ["r2"]
    assert labels(out)["r3"].system is None
    assert metrics["held_out_rows"] == 2
    assert summary(out)["rows"] == {
        "voted": 4,
        "system1": 1,
        "system2": 1,
        "held_out": 2,
        "undecided": 0,
        "tied": 0,
        "below_agreement": 2,
        "without_votes": 0,
    }


def test_gold_labels_judge_teachers_and_the_vote_but_never_decide(kit, tmp_path) -> None:
    rows = [
        example("r1", known="system1"),
        example("r2", known="system2"),
        example("r3", known="system2"),
        example("r4"),
    ]
    metrics, out = tally(kit, tmp_path, rows, {"r1": "111", "r2": "221", "r3": "112", "r4": "222"})
    assert ids(out / "system1") == ["r1", "r3"]
    gold = summary(out)["gold"]
    assert gold["rows"] == 3
    assert gold["confusion"] == {"system1": {"system1": 1}, "system2": {"system1": 1, "system2": 1}}
    assert metrics["vote_accuracy"] == gold["accuracy"] == pytest.approx(2 / 3)
    teachers = summary(out)["teachers"]
    assert [teachers[name]["gold_accuracy"] for name in "abc"] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert teachers["c"]["gold_confusion"] == {"system1": {"system1": 1}, "system2": {"system1": 1, "system2": 1}}
    assert teachers["a"]["system1_share"] == 0.5


def test_agreement_of_the_first_round_and_alpha_of_all_votes(kit, tmp_path) -> None:
    # The published table 20, 5, 10, 15 has a kappa of 0.4.
    patterns = {}
    for pattern, number in {"11-": 20, "121": 5, "212": 10, "22-": 15}.items():
        patterns |= {f"{pattern}{place}": pattern for place in range(number)}
    metrics, out = tally(kit, tmp_path, [example(row) for row in patterns], patterns)
    assert (metrics["agreement_a_b"], metrics["kappa_a_b"]) == (0.7, pytest.approx(0.4))
    agreement = summary(out)["agreement"]
    assert agreement["teachers"] == ["a", "b"]
    assert agreement["raw"] == [[1.0, 0.7], [0.7, 1.0]]
    assert agreement["kappa"][0][1] == pytest.approx(0.4)
    # By hand: of three marks, one against two are 4 ordered disagreements, each worth 1 / (3 - 1); 15 such rows.
    ones, twos = 20 * 2 + 5 * 2 + 10, 15 * 2 + 5 + 10 * 2
    assert summary(out)["krippendorff_alpha"] == pytest.approx(1 - (ones + twos - 1) * 30 / (2 * ones * twos))
    assert summary(out)["patterns"] == {"11-": 20, "121": 5, "212": 10, "22-": 15}


def test_contested_rows_come_least_agreed_and_least_sure_first(kit, tmp_path) -> None:
    rows = [example(name) for name in ("sure", "split", "even", "odd")]
    confidence = {"sure": 0.6, "split": 0.99, "even": 0.5, "odd": 0.8}
    patterns = {"sure": "111", "split": "122", "even": "121", "odd": "112"}
    _, out = tally(kit, tmp_path, rows, patterns, confidence=confidence)
    assert summary(out)["most_contested"] == ["even", "odd", "split"]
    assert summary(out)["shown"] == {"system1": ["sure", "even", "odd"], "system2": ["split"]}


def test_shown_rows_are_spread_over_the_data(kit, tmp_path) -> None:
    rows = [example(f"r{number:03}") for number in range(200)]
    _, out = tally(kit, tmp_path, [*rows, example("x")], {row.id: "11-" for row in rows} | {"x": "22-"})
    assert summary(out)["shown"]["system1"] == [f"r{number:03}" for number in range(0, 200, 10)]


def test_it_says_when_a_teacher_is_the_base_model(kit, tmp_path) -> None:
    rows, patterns = [example("r1"), example("r2")], {"r1": "11-", "r2": "22-"}
    about = {"a": {"teacher_is_base": False}, "b": {"teacher_is_base": True}}
    _, out = tally(kit, tmp_path, rows, patterns, about=about)
    assert summary(out)["teacher_is_base"] is True
    assert summary(out)["teachers"]["b"]["teacher_is_base"] is True


def test_an_empty_system_names_itself_and_what_to_do(kit, tmp_path) -> None:
    rows, patterns = [example("r1"), example("r2"), example("e", "heldout")], {"r1": "11-", "r2": "112", "e": "22-"}
    with pytest.raises(BadInputError) as caught:
        tally(kit, tmp_path, rows, patterns)
    assert str(caught.value) == (
        "the vote gave no training row to system2: 2 went to system1, 0 were held out "
        "('a' said system1 on 67% of its rows, 'b' said system1 on 67% of its rows, "
        "'c' said system1 on 0% of its rows); "
        "give the run other teachers or another template, or more data of both kinds"
    )


def test_missing_votes_are_named(kit, tmp_path) -> None:
    rows = [example("r1"), example("r2")]
    with pytest.raises(BadInputError, match="row r2: the votes of b are missing"):
        tally(kit, tmp_path / "one", rows, {"r1": "11-", "r2": "1--"}, "first")
    with pytest.raises(BadInputError, match="row r2: the votes of c are missing"):
        tally(kit, tmp_path / "two", rows, {"r1": "11-", "r2": "12-"}, "rest")


def test_votes_on_unknown_rows_and_rows_named_twice_are_refused(kit, tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"votes.jsonl: a vote of teacher 'a' is on row other, which is not among"):
        tally(kit, tmp_path / "one", [example("r1")], {"other": "11-"})
    with pytest.raises(BadInputError, match=r"examples.jsonl: the id r1 is there twice"):
        tally(kit, tmp_path / "two", [example("r1"), example("r1")], {"r1": "11-"})


def test_a_failed_teacher_is_waited_for_neither_here_nor_in_the_next_round(kit, tmp_path) -> None:
    rows, failed = [example("r1"), example("r2"), example("r3")], {"b": "teacher 'b': no answer"}
    patterns, voting = {"r1": "12-", "r2": "1--", "r3": "2--"}, {"min_teachers": 2}
    _, out = tally(kit, tmp_path / "first", rows, patterns, "first", failed=failed, voting=voting)
    assert ids(out / "undecided") == ["r1", "r2"]  # the settings' tie is System 2, so nobody can turn r3
    assert read_json(out / "undecided" / "failed.json") == failed
    assert summary(out)["failed"] == failed

    patterns = {"r1": "121", "r2": "1-2", "r3": "2-2"}
    metrics, out = tally(kit, tmp_path / "rest", rows, patterns, failed=failed, voting=voting)
    found = labels(out)
    assert [found[row].system for row in ("r1", "r2", "r3")] == ["system1", "system2", "system2"]
    assert found["r2"].tied
    assert metrics["calls"] == 7
    assert summary(out)["teachers"]["b"]["calls"] == 1
    with pytest.raises(BadInputError, match="the votes of b are missing"):
        tally(kit, tmp_path / "unexcused", rows, patterns)
    both = {**failed, "c": "teacher 'c': no answer"}
    with pytest.raises(
        BadInputError, match=r"2 of 3 teachers failed, and 2 are needed .*: teacher 'b': no answer; tea"
    ):
        tally(kit, tmp_path / "too-many", rows, patterns, failed=both, voting=voting)


def test_rows_that_teachers_abstained_from_are_decided_by_the_others_and_counted(kit, tmp_path) -> None:
    rows = [example(name) for name in ("r0", "r1", "r2", "r3", "r4")]
    patterns = {"r0": "x11", "r1": "x22", "r2": "xxx", "r3": "22-", "r4": "1x1"}
    metrics, out = tally(kit, tmp_path, rows, patterns, plain=dict.fromkeys(patterns, "111"))
    assert ids(out / "system1") == ["r0", "r4"]
    assert ids(out / "system2") == ["r1", "r3"]
    found = summary(out)
    assert {name: about["abstained"] for name, about in found["teachers"].items()} == {"a": 3, "b": 2, "c": 1}
    assert found["rows"]["without_votes"] == 1
    assert metrics["abstained_votes"] == 6
    lines = [f"{one['count']} of {one['total']} {one['what']}" for one in found["omissions"]]
    assert lines == [
        "3 of 5 rows without the vote of teacher 'a'",
        "2 of 5 rows without the vote of teacher 'b'",
        "1 of 4 rows without the vote of teacher 'c'",
        "1 of 5 rows left out of both systems",
    ]
    assert found["without_calibration"]["rows"]["system1"] == 4  # the absences are the same without calibration


def test_a_person_has_the_last_word_and_the_figures_stay_the_teachers(kit, tmp_path) -> None:
    rows = [example(name, known="system1") for name in ("r1", "r2", "r3")] + [example("e1", "heldout")]
    patterns = {"r1": "11-", "r2": "22-", "r3": "22-", "e1": "11-"}
    _, plain = tally(kit, tmp_path / "plain", rows, patterns)
    file = tmp_path / "edits.csv"
    file.write_text("example_id,edited\nr1,system2\nr2,system1\nr3,hold_out\ne1,system2\n", encoding="utf-8")
    metrics, out = tally(kit, tmp_path / "edited", rows, patterns, edits={"source": str(file)})
    assert (ids(out / "system1"), ids(out / "system2")) == (["r2"], ["r1"])
    assert ids(out / "heldout", "system2.jsonl") == ["e1"]
    found = labels(out)
    assert [found[row].system for row in ("r1", "r2", "r3", "e1")] == ["system2", "system1", None, "system2"]
    assert all(label.edited for label in found.values())
    assert found["r1"].votes == {"system1": 2.0, "system2": 0.0}
    assert metrics["edited_rows"] == 4
    assert summary(out)["gold"] == summary(plain)["gold"]
    assert summary(out)["rows"] == summary(plain)["rows"]


def test_the_first_tally_does_not_depend_on_edits() -> None:
    settings = stage_spec("tally").settings
    values = {"teachers": TEACHERS, "voting": {}, "edits": {"source": "f.csv", "digest": "d"}}
    assert settings.model_validate({**values, "round": "first"}).edits is None
    assert settings.model_validate({**values, "round": "rest"}).edits.source == "f.csv"


def test_an_edit_of_an_unknown_row_is_refused(kit, tmp_path) -> None:
    file = tmp_path / "edits.csv"
    file.write_text("example_id,edited\nother,system2\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"edits.csv: there is no row other among the rows that are voted on"):
        tally(kit, tmp_path / "out", [example("r1")], {"r1": "11-"}, edits={"source": str(file)})


def test_labels_with_and_without_calibration_stand_side_by_side(kit, tmp_path) -> None:
    rows = [example("r1", known="system1"), example("r2", known="system2"), example("r3")]
    patterns, plain = {"r1": "11-", "r2": "22-", "r3": "121"}, {"r1": "11-", "r2": "11-", "r3": "112"}
    _, out = tally(kit, tmp_path, rows, patterns, plain=plain)
    without = summary(out)["without_calibration"]
    assert without["rows"]["system1"] == 3
    assert without["changed_rows"] == 1
    assert without["gold_accuracy"] == 0.5
    assert without["system1_share"] == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert summary(out)["gold"]["accuracy"] == 1.0
    assert summary(tally(kit, tmp_path / "not", rows, patterns)[1])["without_calibration"] is None


def test_tokens_saved_are_each_teachers_mean_for_each_saved_call(kit, tmp_path) -> None:
    rows, patterns = [example("r1"), example("r2")], {"r1": "11-", "r2": "212"}
    metrics, _ = tally(kit, tmp_path, rows, patterns)
    assert (metrics["calls_saved"], metrics["tokens"], metrics["tokens_saved"]) == (1, 50, 10)


def test_rows_are_dealt_as_they_stand(kit, tmp_path) -> None:
    row = Example(id='quote"d \\ ü', question="q\n", answer="a", reference="1")
    _, out = tally(kit, tmp_path, [row, example("r2")], {row.id: "11-", "r2": "22-"})
    assert (out / "system1" / "examples.jsonl").read_text(encoding="utf-8") == row.model_dump_json(
        exclude_none=True
    ) + "\n"
    assert set(labels(out)) == {row.id, "r2"}


def test_a_measure_of_the_gate_without_a_held_out_row_is_refused_before_training(kit, tmp_path) -> None:
    rows = [example("r1"), example("r2"), example("e", "heldout").model_copy(update={"reference": "1"})]
    inputs = {
        "examples": kit.rows_folder(tmp_path / "rows", rows),
        "votes": (votes_folder(tmp_path / "votes", {"r1": "111", "r2": "222", "e": "222"}),),
    }
    settings = {"teachers": TEACHERS, "voting": {}, "round": "rest"}
    remedy = r"no held-out row is of it, .* raise data\.heldout, or set gate\.measures=\[system2\]"
    with pytest.raises(BadInputError, match=remedy):
        kit.run("tally", tmp_path / "out", {**settings, "gate": {}}, inputs)
    kit.run("tally", tmp_path / "judged", {**settings, "gate": {"measures": ["system2"]}}, inputs)


def test_held_out_rows_without_a_reference_cannot_be_judged(kit, tmp_path) -> None:
    rows = [example("r1"), example("r2"), example("e", "heldout")]
    inputs = {
        "examples": kit.rows_folder(tmp_path / "rows", rows),
        "votes": (votes_folder(tmp_path / "votes", {"r1": "111", "r2": "222", "e": "222"}),),
    }
    settings = {"teachers": TEACHERS, "voting": {}, "round": "rest", "gate": {"measures": ["system2"]}}
    with pytest.raises(BadInputError, match="none of the 1 held-out rows of system2 has a reference answer"):
        kit.run("tally", tmp_path / "out", settings, inputs)


@pytest.mark.parametrize(
    ("judged", "measures", "line"), [(5, ["system2"], 1), (6, ["system2"], 0), (5, ["system2", "mmlu"], 0)]
)
def test_so_few_held_out_rows_that_nothing_can_be_better_are_a_loud_line(kit, tmp_path, judged, measures, line) -> None:
    held = [example(f"e{n}", "heldout", "system2").model_copy(update={"reference": "1"}) for n in range(judged)]
    rows = [example("r1"), example("r2"), *held]
    inputs = {
        "examples": kit.rows_folder(tmp_path / "rows", rows),
        "votes": (votes_folder(tmp_path / "votes", {"r1": "11-", "r2": "22-"}),),
    }
    settings = {"teachers": TEACHERS, "voting": {}, "round": "rest", "gate": {"measures": measures}}
    notes = kit.Notes()
    kit.run("tally", tmp_path / "out", settings, inputs, notes)
    found = [one for one in notes.lines if one.startswith(f"WARNING: only {judged} held-out rows can be judged")]
    assert len(found) == line
    assert all("says p = 0.062, so nothing would be found better at gate.confidence 0.95" in one for one in found)


def test_of_the_gate_only_the_measures_count() -> None:
    settings = stage_spec("tally").settings
    given = {"teachers": TEACHERS, "voting": {}, "gate": {"measures": ["system2"], "max_loss": 0.5}}
    kept = settings.model_validate({**given, "round": "rest"})
    assert kept.gate.max_loss == settings.model_validate({**given, "round": "rest", "gate": {}}).gate.max_loss
    assert kept.gate.measures == ("system2",)
    assert settings.model_validate({**given, "round": "first"}).gate is None
