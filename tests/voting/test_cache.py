"""Votes by content: found again by what they depend on, and by nothing else."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from lorapar.config import ModelConfig, TeacherConfig, TeacherTemplate
from lorapar.errors import StorageError
from lorapar.records import Example, Vote
from lorapar.store import open_store, remembered
from lorapar.voting.teacher_pool import VoteCache, teacher_identity, vote_key

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
TEACHER = TeacherConfig(name="t", dtype="float32", weight=2.0)
ROWS = [Example(id=f"r{number}", question=f"q{number}", answer="a") for number in range(5)]


def identity(config=TEACHER, base=BASE, role_play=True) -> str:
    return teacher_identity(config, base, role_play=role_play)


def opened(path, store=None, config=TEACHER) -> VoteCache:
    return VoteCache(path / "votes.sqlite", [config], identity, store)


def vote(row: Example) -> Vote:
    log_probs = {"system1": -1.5, "system2": -0.1234567890123456}
    return Vote(
        example_id=row.id,
        teacher="t",
        label="system2",
        weight=2.0,
        confidence=0.7,
        log_probs=log_probs,
        template="d",
        raw="maths",
        tokens=7,
    )


def test_what_was_voted_is_found_again_to_the_last_bit_by_content(tmp_path) -> None:
    with opened(tmp_path) as cache:
        for row in ROWS[:3]:
            cache.keep("t", row, vote(row))
        assert [found.example_id for found in cache.recall("t", ROWS)] == ["r0", "r1", "r2"]  # unflushed ones too
    renamed = ROWS[1].model_copy(update={"id": "another-id", "reference": "x", "known_system": "system1"})
    with opened(tmp_path) as cache:
        (found,) = cache.recall("t", [ROWS[4], renamed])
    assert found == vote(ROWS[1]).model_copy(update={"example_id": "another-id", "cached": True})


def test_question_and_answer_do_not_run_into_each_other() -> None:
    assert vote_key("i", Example(id="1", question="ab", answer="c")) != vote_key(
        "i", Example(id="1", question="a", answer="bc")
    )


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"backend": "vllm"},
        {"dtype": "bfloat16"},
        {"model": "builtin:tiny", "backend": "vllm", "vllm": {"quantization": "fp8"}},
        {"template": {"label_words": {"system1": "fact", "system2": "maths"}}},
        {"template": {"instruction": "Other {target}"}},
        {"backend": "openai", "endpoint": "http://a/v1", "model": "m", "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_another_question_or_teacher_is_another_identity(change) -> None:
    changed = TeacherConfig.model_validate({**TEACHER.model_dump(), **change})
    assert identity(changed) != identity()


def test_the_target_and_its_role_are_part_of_the_question_and_the_weight_is_not() -> None:
    assert identity(base=BASE.model_copy(update={"description": "other"})) != identity()
    assert identity(role_play=False) != identity()
    assert identity(TEACHER.model_copy(update={"weight": 5.0, "batch_size": 3})) == identity()


def test_an_endpoint_is_known_by_address_name_and_revision() -> None:
    def at(**changes) -> str:
        values = {"name": "t", "backend": "openai", "endpoint": "http://a/v1", "model": "m", **changes}
        return identity(TeacherConfig.model_validate(values))

    assert len({at(), at(revision="2"), at(model="n"), at(endpoint="http://b/v1")}) == 4
    assert at(openai={"concurrency": 7}) == at()


def test_what_is_added_to_an_endpoints_requests_makes_other_answers_and_who_asks_does_not() -> None:
    def at(**options) -> str:
        values = {"name": "t", "backend": "openai", "endpoint": "http://a/v1", "model": "m", "openai": options}
        return identity(TeacherConfig.model_validate(values))

    assert len({at(), at(extra_body={"reasoning_effort": "low"}), at(extra_body={"reasoning_effort": "high"})}) == 3
    who = {"headers": {"X-Tenant": "team"}, "headers_env": {"api-key": "A"}, "query_env": {"sig": "B"}}
    assert at(**who, api_key_file="/key", max_tokens=900) == at()


def test_changed_weights_in_the_same_folder_are_another_teacher(tmp_path) -> None:
    from lorapar.basemodel import load_model, load_tokenizer

    model = load_model(BASE)
    model.save_pretrained(tmp_path)
    load_tokenizer(BASE).save_pretrained(tmp_path)
    config = TeacherConfig(name="t", model=str(tmp_path))
    before = identity(config)
    model.get_input_embeddings().weight.data.mul_(0.5)
    model.save_pretrained(tmp_path)
    assert identity(config) != before


def test_a_second_machine_finds_in_the_store_what_the_first_has_sent(tmp_path) -> None:
    store = open_store(tmp_path / "store")
    with opened(tmp_path / "one", store) as cache:
        for row in ROWS[:3]:
            cache.keep("t", row, vote(row))
    with opened(tmp_path / "two", store) as cache:
        assert [found.example_id for found in cache.recall("t", ROWS)] == ["r0", "r1", "r2"]
        cache.keep("t", ROWS[3], vote(ROWS[3]))
    with opened(tmp_path / "three", store) as cache:
        assert len(list(cache.recall("t", ROWS))) == 4
    other = TEACHER.model_copy(update={"template": TeacherTemplate(style="plain")})
    with opened(tmp_path / "four", store, other) as cache:
        assert list(cache.recall("t", ROWS)) == []


def test_a_lost_machine_costs_no_more_than_what_was_not_sent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(remembered, "SEND_ENTRIES", 2)
    store = open_store(tmp_path / "store")
    lost = opened(tmp_path / "one", store)
    for row in ROWS:
        lost.keep("t", row, vote(row))
    with opened(tmp_path / "two", store) as cache:
        assert len(list(cache.recall("t", ROWS))) == 4


def test_a_killed_process_leaves_what_it_has_flushed(tmp_path) -> None:
    code = f"""
import os
from pathlib import Path
from lorapar.store import remembered
from tests.voting.test_cache import ROWS, opened, vote
remembered.FLUSH_ENTRIES = 2
cache = opened(Path({str(tmp_path)!r}))
for row in ROWS: cache.keep("t", row, vote(row))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with opened(tmp_path) as cache:
        assert len(list(cache.recall("t", ROWS))) == 4


def test_a_damaged_file_says_what_to_do(tmp_path) -> None:
    (tmp_path / "votes.sqlite").write_bytes(b"no database at all, but long enough to look at" * 9)
    with pytest.raises(StorageError, match=r"votes.sqlite: the cache of votes cannot be used .* remove the file"):
        opened(tmp_path)


@pytest.mark.parametrize("damage", ["cast(x'ff41' as text)", "x'ff41'", "'{\"label\": '", "'[1]'", "'{}'", "NULL", "7"])
def test_a_damaged_vote_alone_is_asked_again(tmp_path, damage) -> None:
    with opened(tmp_path) as cache:
        for row in ROWS[:3]:
            cache.keep("t", row, vote(row))
    with sqlite3.connect(tmp_path / "votes.sqlite") as file:
        file.execute(f"UPDATE votes SET entry = {damage} WHERE key = ?", (vote_key(identity(), ROWS[1]),))  # noqa: S608
    with opened(tmp_path) as cache:
        assert [found.example_id for found in cache.recall("t", ROWS)] == ["r0", "r2"]
        cache.keep("t", ROWS[1], vote(ROWS[1]))
    with opened(tmp_path) as cache:
        assert len(list(cache.recall("t", ROWS))) == 3


def test_two_processes_may_write_at_once(tmp_path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        one.keep("t", ROWS[0], vote(ROWS[0]))
        one.flush()
        other.keep("t", ROWS[1], vote(ROWS[1]))
        other.keep("t", ROWS[0], vote(ROWS[0]))
        other.flush()
        assert len(list(one.recall("t", ROWS))) == 2
    with sqlite3.connect(tmp_path / "votes.sqlite") as file:
        assert file.execute("SELECT count(*) FROM votes").fetchone() == (2,)
