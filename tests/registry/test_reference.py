"""What a client may write to name an adapter, and what never reaches a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar.errors import BadInputError
from lorapar.registry import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("maths", Reference("maths", alias="production")),
        ("maths@candidate", Reference("maths", alias="candidate")),
        ("maths@3", Reference("maths", version=3)),
        ("my.maths_v2-b@12", Reference("my.maths_v2-b", version=12)),
    ],
)
def test_a_reference_is_a_name_with_a_version_or_an_alias(text, means) -> None:
    assert parse_reference(text) == means
    assert parse_reference(str(means)) == means


@pytest.mark.parametrize(
    "text",
    ["", "@3", "a@", "a@0", "a@03", "a@-1", "a@3@4", "../a", "a/b", "a..b", "a@../x", "a@x/y", ".a", "-a", "a b",
     "a@1x", "a\n", "a@production\n", "a" * 65, "ä", "a@" + "9" * 10],
)  # fmt: skip
def test_what_is_not_plainly_one_is_refused(text) -> None:
    with pytest.raises(BadInputError, match=r"name of an adapter|neither a version"):
        parse_reference(text)


@given(st.text())
def test_no_text_becomes_a_path(text) -> None:
    try:
        found = parse_reference(text)
    except BadInputError:
        return
    assert "/" not in str(found)
    assert ".." not in str(found)
