"""The vote stage with real teachers: several templates of the tiny model."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import yaml

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, Vote, read_json, read_records, write_records
from lorapar.store import seal
from lorapar.voting.collect import FLUSH_VOTES, VoteJournal
from tests.voting.api_server import MODEL, serving

ROWS = [Example(id=f"r{number}", question="Why " * number + "?", answer="So.") for number in range(6)]


def teacher(name: str, **template) -> dict:
    words = {"system1": "fact", "system2": "maths"}
    return {
        "name": name,
        "dtype": "float32",
        "batch_size": 4,
        "template": {"style": "plain", "label_words": words, **template},
    }


TEACHERS = (teacher("plain"), teacher("chat", style="chat"), teacher("bare", instruction="{system1} or {system2}?"))


def settings(kit, round_name="first", teachers=TEACHERS, **voting):
    return {"model": kit.TINY, "teachers": teachers, "voting": voting, "round": round_name}


def votes_of(out) -> list[Vote]:
    return list(read_records(out / "votes" / "votes.jsonl", Vote))


def test_the_first_round_asks_a_bare_majority_about_every_row(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    metrics, out = kit.run("vote", tmp_path / "out", settings(kit), inputs)
    votes = votes_of(out)
    assert {(vote.teacher, vote.example_id) for vote in votes} == {(n, r.id) for n in ("plain", "chat") for r in ROWS}
    assert len(votes) == 12
    tokens = sum(vote.tokens for vote in votes)
    assert metrics == {
        "rows": 6,
        "calls": 12,
        "cached_votes": 0,
        "tokens": tokens,
        "thinking_tokens": 0,
        "abstained_votes": 0,
        "failed_teachers": 0,
    }
    summary = read_json(out / "votes" / "summary.json")
    assert (summary["round"], summary["votes"], list(summary["teachers"])) == ("first", 12, ["plain", "chat"])
    assert summary["teachers"]["plain"]["template"] == votes[0].template


def test_rows_that_have_their_label_without_votes_are_asked_about_by_nobody(kit, tmp_path) -> None:
    known = [row.model_copy(update={"known_system": "system1"}) for row in ROWS[:2]]
    heldout = ROWS[5].model_copy(update={"split": "heldout"})
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", [*known, ROWS[2], heldout])}
    asked = {}
    for labels in ("votes", "data", "random"):
        _, out = kit.run("vote", tmp_path / labels, settings(kit, quorum=1, labels=labels), inputs)
        asked[labels] = {vote.example_id for vote in votes_of(out)}
    assert asked == {"votes": {"r0", "r1", "r2", "r5"}, "data": {"r2", "r5"}, "random": {"r5"}}


def test_data_that_shall_give_labels_and_give_none_are_refused_before_anybody_is_asked(kit, tmp_path) -> None:
    heldout = ROWS[5].model_copy(update={"split": "heldout", "known_system": "system1"})
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", [*ROWS[:2], heldout])}
    with pytest.raises(BadInputError, match=r"voting.labels is data, and no training row names its system"):
        kit.run("vote", tmp_path / "out", settings(kit, labels="data"), inputs)
    assert not (tmp_path / "out" / "votes" / "votes.jsonl").exists()


def test_the_summary_tells_who_the_teachers_are(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:1])}
    _, out = kit.run("vote", tmp_path / "out", settings(kit, quorum=3), inputs)
    about = read_json(out / "votes" / "summary.json")["teachers"]
    assert all(one["teacher_is_base"] for one in about.values())
    assert about["plain"]["model"] == "builtin:tiny"
    assert [one["role_play"] for one in about.values()] == [True, True, False]
    assert len({one["template"] for one in about.values()}) == 3


def test_another_model_is_not_the_base(kit, tmp_path) -> None:
    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.config import ModelConfig

    tiny = ModelConfig(**kit.TINY)
    other, copy = tmp_path / "other", tmp_path / "copy"
    model = load_model(tiny)
    model.save_pretrained(copy)
    model.get_input_embeddings().weight.data.mul_(0.5)
    model.save_pretrained(other)
    for folder in (other, copy):
        load_tokenizer(tiny).save_pretrained(folder)
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:2])}
    teachers = ({**teacher("own"), "model": str(other)}, {**teacher("same"), "model": str(copy)})
    chosen = {**settings(kit, teachers=teachers), "model": {"name": str(copy), "dtype": "float32"}}
    _, out = kit.run("vote", tmp_path / "out", chosen, inputs)
    about = read_json(out / "votes" / "summary.json")["teachers"]
    assert [about[name]["teacher_is_base"] for name in ("own", "same")] == [False, True]
    by_teacher = {(vote.teacher, vote.example_id): vote.log_probs for vote in votes_of(out)}
    assert by_teacher["own", "r0"] != by_teacher["same", "r0"]


def test_the_second_round_asks_the_others_about_open_rows(kit, tmp_path) -> None:
    folder = kit.rows_folder(tmp_path / "open", ROWS[:2])
    cast = [
        Vote(example_id=row.id, teacher=name, label=label, template="d", raw="")
        for row in ROWS[:2]
        for name, label in (("plain", "system1"), ("chat", "system2"))
    ]
    write_records(folder / "votes.jsonl", cast)
    seal(folder, "test.undecided")
    metrics, out = kit.run("vote", tmp_path / "out", settings(kit, "rest"), {"examples": folder})
    assert {(vote.teacher, vote.example_id) for vote in votes_of(out)} == {("bare", "r0"), ("bare", "r1")}
    assert metrics["calls"] == 2


def test_an_empty_second_round_works_and_loads_no_model(kit, tmp_path) -> None:
    notes = kit.Notes()
    folder = kit.rows_folder(tmp_path / "open", [])
    metrics, out = kit.run("vote", tmp_path / "out", settings(kit, "rest"), {"examples": folder}, notes)
    assert set(metrics.values()) == {0.0}
    assert votes_of(out) == []
    assert list(read_json(out / "votes" / "summary.json")["teachers"]) == ["bare"]
    assert notes.lines == []


def test_a_round_can_be_shared_out_among_calls(kit, tmp_path) -> None:
    """A task a teacher, as in a pipeline: together they cast the votes that one call for the whole round casts."""
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    _, whole = kit.run("vote", tmp_path / "whole", settings(kit), inputs)
    parts = []
    for name in ("plain", "chat"):
        _, out = kit.run("vote", tmp_path / name, settings(kit) | {"asked": (name,)}, inputs)
        assert list(read_json(out / "votes" / "summary.json")["teachers"]) == [name]
        parts += votes_of(out)
    assert parts == votes_of(whole)


def test_a_call_that_asks_nobody_makes_an_empty_artifact(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    metrics, out = kit.run("vote", tmp_path / "out", settings(kit, "rest") | {"asked": ()}, inputs)
    assert votes_of(out) == []
    assert metrics["calls"] == 0


def test_a_teacher_of_the_other_round_is_refused(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    with pytest.raises(BadInputError, match="'bare' is no teacher of the round first"):
        kit.run("vote", tmp_path / "out", settings(kit) | {"asked": ("bare",)}, inputs)


def test_teachers_of_one_model_share_it(kit, tmp_path) -> None:
    notes = kit.Notes()
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:1])}
    kit.run("vote", tmp_path / "out", settings(kit, quorum=3), inputs, notes)
    assert notes.lines == ["loading builtin:tiny"]


def test_a_killed_stage_goes_on_with_the_missing_rows_only(kit, tmp_path, monkeypatch) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    _, whole = kit.run("vote", tmp_path / "whole", settings(kit), inputs)
    append, left = VoteJournal.append, iter(range(8))

    def stopping(self, vote):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(self, vote)

    with monkeypatch.context() as patch:
        patch.setattr(VoteJournal, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            kit.run("vote", tmp_path / "killed", settings(kit), inputs)
    journal = tmp_path / "killed" / "scratch" / "votes.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])  # a torn last line
    notes = kit.Notes()
    metrics, killed = kit.run("vote", tmp_path / "killed", settings(kit), inputs, notes)
    assert notes.lines[-1] == "7 votes of an earlier call were kept"
    assert metrics["calls"] == 12

    def opinions(out):
        return {(vote.teacher, vote.example_id): vote for vote in votes_of(out)}

    assert len(votes_of(killed)) == 12
    for key, vote in opinions(whole).items():
        again = opinions(killed)[key]
        assert again.label == vote.label
        assert again.log_probs == pytest.approx(vote.log_probs, abs=1e-4)


def test_role_play_off_asks_something_else(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:1])}
    played = votes_of(kit.run("vote", tmp_path / "on", settings(kit), inputs)[1])
    neutral = votes_of(kit.run("vote", tmp_path / "off", settings(kit, role_play=False), inputs)[1])
    assert played[0].log_probs != neutral[0].log_probs
    assert played[0].template != neutral[0].template


def test_a_teacher_that_is_no_model_is_one_clear_line(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:1])}
    teachers = ({**teacher("gone"), "model": str(tmp_path / "nowhere")},)
    with pytest.raises(BadInputError, match="nowhere is not a folder"):
        kit.run("vote", tmp_path / "out", settings(kit, teachers=teachers), inputs)


@pytest.mark.parametrize("stage", ["vote", "tally"])
def test_the_stage_can_be_looked_at_without_torch(stage) -> None:
    code = f"import sys, lorapar.stages.{stage}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_make_a_teacher_of_the_base_model(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:2])}
    only = (TeacherConfig(name="self", dtype="float32").model_dump(),)
    _, out = kit.run("vote", tmp_path / "out", settings(kit, teachers=only), inputs)
    assert {vote.raw for vote in votes_of(out)} <= {"System1", "System2"}


def test_a_second_run_over_grown_data_asks_only_about_new_rows(kit, tmp_path) -> None:
    def run(name, rows, **shared):
        inputs = {"examples": kit.rows_folder(tmp_path / f"{name}-rows", rows)}
        return kit.run("vote", tmp_path / name, settings(kit), inputs, **shared)

    first, _ = run("first", ROWS[:4], cache=tmp_path / "cache")
    notes = kit.Notes()
    inputs = {"examples": tmp_path / "first-rows"}
    again, same = kit.run("vote", tmp_path / "again", settings(kit), inputs, notes, cache=tmp_path / "cache")
    grown, out = run("grown", ROWS, cache=tmp_path / "cache")
    assert [(m["calls"], m["cached_votes"]) for m in (first, again, grown)] == [(8, 0), (0, 8), (4, 8)]
    assert notes.lines == []  # no model was loaded
    assert first["tokens"] > again["tokens"] == 0
    # What was remembered makes no difference to the artifact.
    for name in ("votes.jsonl", "summary.json"):
        assert (same / "votes" / name).read_bytes() == (tmp_path / "first" / "votes" / name).read_bytes()
    assert len(votes_of(out)) == 12


def test_machines_share_votes_through_a_store(kit, tmp_path) -> None:
    from lorapar.store import open_store

    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    store = open_store(tmp_path / "store")
    kit.run("vote", tmp_path / "one", settings(kit), inputs, store=store)
    metrics, _ = kit.run("vote", tmp_path / "two", settings(kit), inputs, store=store)
    assert (metrics["calls"], metrics["cached_votes"]) == (0, 12)


def test_calibrated_votes_keep_their_plain_label_and_hand_on_the_probe(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS)}
    plain = {(v.teacher, v.example_id): v for v in votes_of(kit.run("vote", tmp_path / "p", settings(kit), inputs)[1])}
    chosen = settings(kit, calibrate=True, probe_rows=4)
    _, out = kit.run("vote", tmp_path / "c", chosen, inputs)
    probe = [row.id for row in read_records(out / "votes" / "probe.jsonl", Example)]
    assert len(probe) == 4
    for name in ("plain", "chat"):
        odds = {row.id: plain[name, row.id].log_probs for row in ROWS}
        lean = sum(odds[row]["system1"] - odds[row]["system2"] for row in probe) / 4
        for vote in (vote for vote in votes_of(out) if vote.teacher == name):
            own = odds[vote.example_id]
            assert vote.uncalibrated == plain[name, vote.example_id].label
            assert vote.label == ("system1" if own["system1"] - own["system2"] > lean else "system2")


def test_a_teacher_that_cannot_be_had_is_left_out_where_enough_are_left(kit, tmp_path) -> None:
    inputs = {"examples": kit.rows_folder(tmp_path / "rows", ROWS[:2])}
    teachers = (TEACHERS[0], {**teacher("gone"), "model": str(tmp_path / "nowhere")}, TEACHERS[2])
    notes = kit.Notes()
    metrics, out = kit.run("vote", tmp_path / "out", settings(kit, teachers=teachers, min_teachers=2), inputs, notes)
    assert (metrics["calls"], metrics["failed_teachers"]) == (2, 1)
    assert list(read_json(out / "votes" / "summary.json")["failed"]) == ["gone"]
    assert any("going on without it" in line for line in notes.lines)


def test_a_killed_process_asks_its_endpoint_again_for_no_more_than_was_on_the_way_and_unflushed(
    kit, start_cli, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what is killed leaves its temporary files behind
    rows = [Example(id=f"r{number}", question=f"Why {number}?", answer="So.") for number in range(700)]
    kit.rows_folder(tmp_path / "rows", rows)
    with serving(seconds=0.02) as api:
        served = {"backend": "openai", "endpoint": api.address, "model": MODEL, "openai": {"concurrency": 8}}
        file = tmp_path / "run.yaml"
        config = {"model": kit.TINY, "teachers": [{"name": "far", **served}]}
        file.write_text(yaml.safe_dump(config), encoding="utf-8")

        def start(name):
            options = {"--input": f"examples={tmp_path / 'rows'}", "--output": f"votes={tmp_path / name}"}
            options |= {"--param": "round=first", "--scratch": tmp_path / "scratch", "--config": file}
            return start_cli("stage", "vote", *(word for pair in options.items() for word in pair))

        killed = start("killed")
        while len(api.asked("So.")) < 450 and killed.poll() is None:
            time.sleep(0.01)
        killed.kill()
        killed.communicate()
        first = len(api.asked("So."))
        assert 450 <= first < 700
        again = start("again")
        output, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
        asked_twice = len(api.asked("So.")) - 700
    assert "votes of an earlier call were kept" in output
    assert 0 <= asked_twice <= 8 + FLUSH_VOTES
    votes = list(read_records(tmp_path / "again" / "votes.jsonl", Vote))
    assert [vote.example_id for vote in votes] == [row.id for row in rows]
