"""Several sources: weights, questions that two of them ask, ids, lengths, and settings that do not fit."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lorapar.config import DataConfig
from lorapar.data import data_digest, load_data, load_sample, resolve_data
from lorapar.data.mix import SourceCounts, not_drawn
from lorapar.errors import BadInputError


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file of that name; returns its address."""

    def one(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return one


def rows(name, count, **more):
    return [{"question": f"{name} {number}?", "answer": f"{name}{number}", **more} for number in range(count)]


def by_name(loaded):
    return Counter(one.question.split()[0] for one in loaded.examples)


def test_without_weights_every_row_of_every_source_is_there(write):
    alpaca = [{"instruction": f"b {number}?", "output": "yes"} for number in range(5)]
    config = DataConfig(
        sources=[{"source": write("a", rows("a", 10, answer="It is so, as said."))}, {"source": write("b", alpaca)}],
        heldout=3,
    )
    loaded = load_data(config, seed=0)
    assert by_name(loaded) == {"a": 10, "b": 5}
    assert sum(one.split == "heldout" for one in loaded.examples) == 3
    first, second = (one["source"] for one in config.model_dump()["sources"])
    assert loaded.notes == [
        f"{first} is recognised as questions and answers",
        f"{second} is recognised as instructions (Alpaca): 'instruction' is the question, 'output' the answer",
        f"10 of 15 rows are of {first}",
        f"5 of 15 rows are of {second}",
    ]
    assert load_sample(config, seed=0).notes == loaded.notes[:2]


def test_weights_are_shares_of_the_mix_and_no_row_is_used_twice(write):
    named = [{"source": write("a", rows("a", 40)), "weight": 3}, {"source": write("b", rows("b", 60)), "weight": 1}]
    loaded = load_data(DataConfig(sources=named, heldout=4), seed=0)
    assert by_name(loaded) == {"a": 40, "b": 13}
    assert loaded.notes[-1] == f"13 of 53 rows are of {named[1]['source']}, drawn from 60 by weight and limit"
    assert [(one.rows, one.kept) for one in loaded.sources] == [(40, 40), (60, 13)]
    limited = load_data(DataConfig(sources=named, heldout=4, limit=20), seed=0)
    assert by_name(limited) == {"a": 15, "b": 5}
    assert {one.id for one in load_data(DataConfig(sources=named, heldout=4), seed=1).examples} != {
        one.id for one in loaded.examples
    }


@pytest.mark.parametrize(("limit", "lines"), [(None, 1), (13, 1), (12, 0)])
def test_rows_that_weights_leave_out_are_counted_and_a_limit_that_a_person_sets_is_not(write, limit, lines):
    few, many = write("a", rows("a", 12)), write("b", rows("b", 60))
    named = [{"source": few, "weight": 12}, {"source": many, "weight": 1}]
    loaded = load_data(DataConfig(sources=named, heldout=4, limit=limit), seed=0)
    left_out = [one for one in loaded.omissions if "not drawn" in one.what]
    assert [(one.count, one.total, one.is_much) for one in left_out] == [(59, 60, True)] * lines
    assert all(f"the 12 rows of {few} run out first; lower the weight of {few}" in one.line for one in left_out)
    plain = [{"source": few}, {"source": many}]
    assert not [one for one in load_data(DataConfig(sources=plain, heldout=4, limit=9), seed=0).omissions if one.count]


def test_two_parts_of_one_source_are_told_apart():
    parts = [{"source": "hub:cais/mmlu", "subset": subset, "weight": 1} for subset in ("algebra", "law")]
    counts = [SourceCounts("hub:cais/mmlu", rows=count, repeated=0, by_length=0, kept=10) for count in (90, 10)]
    (left_out,) = not_drawn(counts, DataConfig(sources=parts))
    assert left_out.line.startswith("80 of 90 rows of hub:cais/mmlu algebra are not drawn")
    assert "the 10 rows of hub:cais/mmlu law run out first" in left_out.line


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 9)), min_size=2, max_size=4))
def test_shares_are_kept_whatever_the_sizes(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("mix")
    named = []
    for number, (count, weight) in enumerate(sizes):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(f"s{number}", count)))
        named.append({"source": str(path), "weight": weight})
    found = by_name(load_data(DataConfig(sources=named, heldout=0), seed=0))
    total, weights = sum(found.values()), sum(weight for _, weight in sizes)
    for number, (count, weight) in enumerate(sizes):
        assert 1 <= found[f"s{number}"] <= count
        assert abs(found[f"s{number}"] - total * weight / weights) <= len(sizes)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 1, 1), (5, 1, 1), (None, None, None)])
def test_a_limit_is_kept_to_the_row(write, weights):
    sources = [
        {"source": write(f"s{number}", rows(f"s{number}", 30)), **({"weight": weight} if weight else {})}
        for number, weight in enumerate(weights)
    ]
    for limit in (1, 2, 3, 5, 7, 20):
        found = by_name(load_data(DataConfig(sources=sources, limit=limit, heldout=0), seed=0))
        assert sum(found.values()) == limit
        assert limit < len(weights) or len(found) == len(weights)


def test_a_question_that_two_sources_ask_is_kept_once_and_counted(write):
    again = [{"question": " a   1? ", "answer": "other"}, *rows("b", 3)]
    config = DataConfig(sources=[{"source": write("a", rows("a", 4))}, {"source": write("b", again)}], heldout=0)
    loaded = load_data(config, seed=0)
    assert Counter(one.question for one in loaded.examples)["a 1?"] == 1
    assert next(one.answer for one in loaded.examples if one.question == "a 1?") == "a1"
    repeated = loaded.omissions[0]
    assert (repeated.count, repeated.total) == (1, 8)
    assert "1 of 8 rows left out: an earlier one of data.sources asks the same" in repeated.line
    assert loaded.sources[1].repeated == 1


def test_ids_that_two_sources_use_stay_apart(write):
    first, second = ([{**row, "id": place} for place, row in enumerate(rows(name, 3))] for name in "ab")
    config = DataConfig(sources=[{"source": write("a", first)}, {"source": write("b", second)}], heldout=0)
    assert [one.id for one in load_data(config, seed=0).examples] == ["0", "1", "2", "0@2", "1@2", "2@2"]


def test_rows_outside_the_length_are_counted(write):
    source = write("a", [*rows("a", 4), {"question": "a" * 50, "answer": "x"}, {"question": "?", "answer": "x"}])
    config = DataConfig(source=source, heldout=0, length={"min_characters": 4, "max_characters": 20})
    loaded = load_data(config, seed=0)
    assert len(loaded.examples) == 4
    assert [one.line for one in loaded.omissions if one.count] == [
        "2 of 6 rows left out: of their length: 1 by max_characters 20, 1 by min_characters 4; change data.length"
    ]
    by_tokens = DataConfig(source=source, heldout=0, length={"min_tokens": 1, "max_tokens": 2})
    counted = load_data(by_tokens, seed=0, count_tokens=lambda text: len(text.split()))
    assert [one.answer for one in counted.examples] == ["x", "x"]
    assert len(load_data(by_tokens, seed=0).examples) == 6, "whoever has a tokenizer counts"
    with pytest.raises(BadInputError, match=r"no row of .*a\.jsonl is left: all are outside data\.length"):
        load_data(config.model_copy(update={"length": config.length.model_copy(update={"max_characters": 1})}), seed=0)


def test_sources_are_known_by_all_that_they_hold(write):
    first, second = write("a", rows("a", 3)), write("b", rows("b", 3))
    config = DataConfig(sources=[{"source": first}, {"source": second}])
    digest = data_digest(config)
    assert resolve_data(config).digest == digest
    assert resolve_data(resolve_data(config)) == resolve_data(config)
    write("b", rows("b", 4))
    assert data_digest(config) != digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "a.jsonl", "sources": [{"source": "b.jsonl"}]}, "source is a.jsonl, and sources names others"),
        ({"mapping": "gsm8k", "sources": [{"source": "b.jsonl"}]}, "mapping: does nothing beside sources"),
        ({"split": "test", "sources": [{"source": "b.jsonl"}]}, "split: does nothing beside sources"),
        ({"sources": [{"source": "task-mix"}]}, "task-mix brings its own split and stands alone"),
        ({"sources": [{"source": "b.jsonl"}, {"source": "b.jsonl"}]}, "b.jsonl is named twice"),
        ({"sources": [{"source": "a.jsonl", "weight": 1}, {"source": "b.jsonl"}]}, "b.jsonl has no weight, and others"),
        ({"length": {"min_tokens": 9, "max_tokens": 3}}, "min_tokens is 9 and max_tokens 3, so no row"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**values)
    with pytest.raises(BadInputError, match=r"data\.length: does nothing for the task mix"):
        load_data(DataConfig(length={"max_tokens": 3}), seed=0)


def test_what_is_wrong_in_a_source_names_it(write):
    good, bad = write("good", rows("a", 3)), write("bad", [{"text": "x"}])
    with pytest.raises(BadInputError, match=r"bad\.jsonl has no columns that say what is asked and answered"):
        load_data(DataConfig(sources=[{"source": good}, {"source": bad}]), seed=0)
    with pytest.raises(BadInputError, match=r"there is no file .*gone\.jsonl"):
        data_digest(DataConfig(sources=[{"source": good}, {"source": good.replace("good", "gone")}]))
