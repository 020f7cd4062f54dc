"""What a lineage says of an artifact that decided what an adapter is."""

import pytest

from lorapar.records import Label, write_records
from lorapar.registry.lineage import label_facts
from lorapar.store import seal


def label(example_id: str, system: str | None, given: str | None = None) -> Label:
    return Label(example_id=example_id, system=system, votes={}, agreement=0.0, given=given)


@pytest.mark.parametrize("given", [None, "data", "random"])
def test_labels_are_counted_by_system_and_by_what_gave_them(tmp_path, given) -> None:
    rows = [label("a", "system1", given), label("b", "system2", given), label("c", "system2"), label("d", None)]
    write_records(tmp_path / "labels.jsonl", rows)
    seal(tmp_path, "tally.labels")
    facts = label_facts(tmp_path)
    assert facts["rows"] == {"held_out": 1, "system1": 1, "system2": 2}
    assert facts.get("given") == ({given: 2} if given else None)
