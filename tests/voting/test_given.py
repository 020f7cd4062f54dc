"""Labels that nobody votes on: by chance or as the data name them, of training rows only."""

from collections import Counter

import pytest

from lorapar.config import validate_settings
from lorapar.config.voting import VotingConfig
from lorapar.errors import BadInputError
from lorapar.records import Example
from lorapar.voting.ballots import Given, is_voted_on

ALL = [(split, known) for split in ("train", "heldout", "development") for known in (None, "system1")]


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ("votes", [True, True, True, False, True, False]),
        ("data", [True, False, True, False, True, False]),
        ("random", [False, False, True, False, True, False]),
    ],
)
def test_teachers_are_asked_about_rows_that_have_no_label(labels, asked) -> None:
    given = Given(labels)
    assert [given.asks(split, known) for split, known in ALL] == asked
    rows = [Example(id="r", question="q", answer="a", split=split, known_system=known) for split, known in ALL]
    assert [is_voted_on(row, labels) for row in rows] == asked


def test_only_training_rows_get_a_label_in_place_of_votes() -> None:
    assert [Given("data").label("r", split, known) for split, known in ALL] == [None, "system1", None, None, None, None]
    assert [Given("votes").label("r", split, known) for split, known in ALL] == [None] * 6
    by_chance = [Given("random").label("r", split, known) for split, known in ALL]
    assert by_chance[0] == by_chance[1] is not None, "what the data say makes no difference"
    assert by_chance[2:] == [None] * 4


def test_chance_gives_each_system_as_many_and_goes_by_row_and_seed_alone() -> None:
    names = ("recall", "sums", "code")
    rows = [f"row-{place}" for place in range(3000)]
    drawn = {row: Given("random", names, seed=1).label(row, "train", None) for row in rows}
    counted = Counter(drawn.values())
    assert set(counted) == set(names)
    assert all(abs(count - 1000) < 5 * (3000 * 1 / 3 * 2 / 3) ** 0.5 for count in counted.values())
    assert all(Given("random", names, seed=1).label(row, "train", None) == drawn[row] for row in reversed(rows[:50]))
    other = [Given("random", names, seed=2).label(row, "train", None) for row in rows]
    alike = sum(one == drawn[row] for row, one in zip(rows, other, strict=True))
    assert abs(alike - 1000) < 5 * (3000 * 1 / 3 * 2 / 3) ** 0.5


def test_data_that_name_no_systems_give_no_labels() -> None:
    mapped = {"source": "hub:openai/gsm8k", "mapping": "gsm8k"}
    with pytest.raises(BadInputError, match=r"voting.labels is data, and the data name no systems; name their column"):
        validate_settings({"voting": {"labels": "data"}, "data": mapped}, "x")
    columns = {"question": "q", "answer": "a", "system": "kind"}
    for data in ({}, {"source": "rows.jsonl"}, {"source": "rows.jsonl", "columns": columns}):
        assert validate_settings({"voting": {"labels": "data"}, "data": data}, "x").voting.labels == "data"


def test_votes_are_the_default_and_leave_no_trace() -> None:
    assert "labels" not in VotingConfig().model_dump()
    assert VotingConfig(labels="random").model_dump()["labels"] == "random"
