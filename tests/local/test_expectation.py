"""`lorapar plan` says hours where its store has runs of the same shape, and nothing where it has none."""

import pytest

from lorapar.cli.fill_documents import plan_document
from lorapar.config import load_config
from lorapar.errors import UnreachableError
from lorapar.local import expectation
from lorapar.local.expectation import expectations, hours_text
from lorapar.local.planning import plan_run
from lorapar.local.timing import ROOT, Expected, Rows, Timing, device_name, todo
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import make_plan
from lorapar.store import open_store

NODES = [node for node in GRAPH if node.name in ("init", "sft", "partition")]


@pytest.fixture
def plan(tmp_path):
    """The plan of a tiny run with a store in a folder, which is not there yet."""
    return make_plan(load_config(preset="tiny", overrides=[f"store.address={tmp_path / 'store'}"]))


@pytest.fixture
def recorded(plan, tmp_path):
    """Its store with a run of SFT of half the steps, 10 s long."""
    one = todo("sft", plan.sections["sft"], Rows())
    assert one is not None
    timing = Timing(shape=one.shape, work=one.work / 2, device=device_name(), processes=1, seconds=10.0)
    store = open_store(tmp_path / "store")
    store.write(f"{ROOT}/sft-{one.shape}/20260101T000000-a.json", timing.model_dump_json().encode())
    return store


def test_nothing_is_guessed_and_no_folder_is_made(plan, tmp_path) -> None:
    assert expectations(plan, NODES) == ({}, None)
    assert not (tmp_path / "store").exists()
    assert hours_text({}, NODES) == []


def test_a_recorded_run_is_reported_and_what_is_missing_is_named(plan, recorded) -> None:
    found, unasked = expectations(plan, NODES)
    assert found == {"sft": Expected(20.0, 1, True, device_name(), 1)}
    assert unasked is None
    on, together = hours_text(found, NODES)
    assert on == f"on {device_name()}: sft 20 s (1 run, scaled)"
    assert together == "together 20 s, without init, partition: no run like it is recorded"


def test_the_plan_shows_it_as_a_line_and_as_json(plan, recorded, tmp_path) -> None:
    planned = plan_run(plan.config, tmp_path / "run", until="sft", fresh=False)
    assert any(str(line).startswith("time        on ") for line in planned.lines)
    message = {node.node: node.expected for node in plan_document(planned).nodes}
    assert message.pop("sft").model_dump() == {
        "seconds": 20.0,
        "runs": 1,
        "scaled": True,
        "device": device_name(),
        "processes": 1,
    }
    assert set(message.values()) == {None}


def test_a_store_that_does_not_answer_is_reported_and_the_plan_stands(plan, recorded, monkeypatch) -> None:
    def away(_address):
        raise UnreachableError("s3://bucket: nobody there")

    monkeypatch.setattr(expectation, "open_store", away)
    assert expectations(plan, NODES) == ({}, "no times of earlier runs: s3://bucket: nobody there")
