"""Every setting is shown, with what differs from the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from lorapar.config import RunConfig
from lorapar.report.settings import changed_settings, digest_rows, setting_groups, with_near_addresses
from lorapar.report.sources import Facts


def test_every_section_and_every_key_is_there() -> None:
    groups = setting_groups(RunConfig())
    keys = {one.key for group in groups for one in group.settings}
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            assert any(key.startswith(f"{name}.") for key in keys)
    assert {"name", "seed", "rl.rewards", "data.task_mix.system1_train", "teachers[0].template.label_words"} <= keys


def test_defaults_do_not_count_as_changed() -> None:
    changed = changed_settings(setting_groups(RunConfig()))
    assert [one.key for one in changed] == ["teachers[0].name"]


def test_what_was_set_is_shown_with_its_default() -> None:
    config = RunConfig.model_validate({"partition": {"beta": 0.5}, "sft": {"learning_rate": 1e-3}})
    changed = {one.key: (one.value, one.default) for one in changed_settings(setting_groups(config))}
    assert changed["partition.beta"] == ("0.5", "1")
    assert changed["sft.learning_rate"] == ("0.001", "0.0002")


def test_digests_name_what_was_read() -> None:
    config = RunConfig.model_validate({"model": {"digest": "d" * 64}, "data": {"digest": "e" * 64}})
    facts = Facts(plan={"version": "1.2", "created": "today"}, config=config, digests={"labels": "f" * 64})
    rows = dict(digest_rows(facts))
    assert (rows["lorapar version"], rows["base model digest"], rows["data digest"]) == ("1.2", "d" * 64, "e" * 64)
    assert rows["labels (artifact)"] == "f" * 64


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/work/runs/registry", "../registry"),
        ("/work/runs/mine/registry", "registry"),
        ("/srv/registry", "/srv/registry"),
        ("runs/registry", "runs/registry"),
        ("s3://bucket/work/runs/registry", "s3://bucket/work/runs/registry"),
        (None, None),
    ],
)
def test_storage_in_or_beside_the_run_folder_is_shown_as_seen_from_there(address, shown) -> None:
    config = RunConfig.model_validate({"registry": {"address": address}, "store": {"address": address}})
    near = with_near_addresses(config, Path("/work/runs/mine"))
    assert (near.registry.address, near.store.address) == (shown, shown)
    assert with_near_addresses(config, None) == config


def test_the_report_of_a_run_names_no_folder_of_its_machine(tiny_run) -> None:
    page = (tiny_run / "report.html").read_text(encoding="utf-8")
    assert "<b>../registry</b>" in page
    assert str(tiny_run.parent) not in page
