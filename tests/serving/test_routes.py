"""Who gets which side of a canary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lorapar.serving.routes import in_share

SHARES = st.floats(0, 100)


@given(key=st.text(), share=SHARES)
def test_a_larger_share_holds_every_smaller_one(key: str, share: float) -> None:
    assert not in_share("task", key, share) or in_share("task", key, min(share + 10, 100))


@given(key=st.text())
def test_nothing_and_everything(key: str) -> None:
    assert not in_share("task", key, 0.0)
    assert in_share("task", key, 100.0)


def test_share_is_met_over_many_keys_and_differs_between_adapters() -> None:
    keys = [f"user{number}" for number in range(20_000)]
    task, other = ({key for key in keys if in_share(name, key, 10.0)} for name in ("task", "other"))
    assert 1_850 < len(task) < 2_150
    assert 130 < len(task & other) < 270  # as two independent tenths
