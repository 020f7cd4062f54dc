"""The vllm backend: the same labels and log-probabilities as the transformers backend on the same model."""

from __future__ import annotations

import pytest

from lorapar.config import TeacherConfig
from lorapar.errors import BadInputError
from lorapar.progress import Silent
from lorapar.records import Example, Vote, read_records, write_records
from lorapar.stages.contract import StageCall, run_stage, stage_spec
from lorapar.store import seal

# One token a byte: words of one token, of several from the first on different, and of several that begin alike.
WORDS = [("f", "m"), ("fact", "maths"), ("System1", "System2")]


def vllm_teacher(template, **changes) -> TeacherConfig:
    return TeacherConfig(name="t", backend="vllm", dtype="float32", template=template, **changes)


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("words", WORDS, ids="/".join)
def test_votes_equal_those_of_transformers(kit, engines, style, words) -> None:
    template = kit.template(style, *words)
    votes = {vote.example_id: vote for vote in engines.open(vllm_teacher(template)).votes(kit.ROWS)}
    expected = kit.by_transformers(template)
    assert votes.keys() == expected.keys()
    for row, vote in votes.items():
        assert vote.log_probs == pytest.approx(expected[row].log_probs, abs=1e-4)
        assert vote.confidence == pytest.approx(expected[row].confidence, abs=1e-4)
        same = vote.model_copy(update={"log_probs": None, "confidence": None})
        assert same == expected[row].model_copy(update={"log_probs": None, "confidence": None})


def test_rows_that_are_done_are_not_asked_and_a_stop_leaves_the_engine_usable(kit, engines) -> None:
    teacher = engines.open(vllm_teacher(kit.template("plain", "f", "m")))
    votes = teacher.votes(kit.ROWS)
    first = next(votes)
    votes.close()
    rest = {vote.example_id for vote in teacher.votes(kit.ROWS, {first.example_id})}
    assert rest == {row.id for row in kit.ROWS} - {first.example_id}


def test_a_row_longer_than_the_model_reads_is_named(kit, engines) -> None:
    long = Example(id="long", question="x" * 5000, answer="a")
    with pytest.raises(BadInputError, match=r"teacher 't': row long has \d+ tokens .* its model reads 4096; shorten"):
        list(engines.open(vllm_teacher(kit.template("plain", "f", "m"))).votes([*kit.ROWS, long]))


def test_an_engine_that_cannot_start_is_one_line(kit, engines) -> None:
    config = vllm_teacher(kit.template("plain", "f", "m"), vllm={"quantization": "no-such-method"})
    with pytest.raises(BadInputError, match="vLLM cannot start with builtin:tiny") as caught:
        engines.open(config)
    assert "\n" not in str(caught.value)


def test_the_stage_votes_with_it_and_frees_it(kit, engines, tmp_path) -> None:
    engines.close()  # one engine at a time, as between teachers
    template = kit.template("plain", "fact", "maths").model_dump(mode="json")
    shared = {"dtype": "float32", "template": template}
    teachers = [{"name": "by-vllm", "backend": "vllm", "vllm": {"max_model_len": 1024}, **shared}]
    teachers.append({"name": "by-transformers", **shared})
    (tmp_path / "rows").mkdir()
    write_records(tmp_path / "rows" / "examples.jsonl", kit.ROWS)
    seal(tmp_path / "rows", "test.rows")
    for name in ("votes", "scratch"):
        (tmp_path / name).mkdir()
    values = {"model": kit.BASE, "teachers": teachers, "voting": {"quorum": 2}, "round": "first"}
    settings = stage_spec("vote").settings.model_validate(values)
    call = StageCall(
        settings, {"examples": (tmp_path / "rows",)}, {"votes": tmp_path / "votes"}, tmp_path / "scratch", Silent()
    )
    assert run_stage("vote", call)["calls"] == 2 * len(kit.ROWS)
    votes = list(read_records(tmp_path / "votes" / "votes.jsonl", Vote))
    labels = {name: [vote.label for vote in votes if vote.teacher == name] for name in ("by-vllm", "by-transformers")}
    assert labels["by-vllm"] == labels["by-transformers"]
    assert len(labels["by-vllm"]) == len(kit.ROWS)
