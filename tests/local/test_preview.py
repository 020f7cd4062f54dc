"""`lorapar plan` says beforehand what `lorapar run` then does."""

import pytest

from lorapar.config import load_config
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.local.preview import changes, preview
from lorapar.local.runner import with_registry
from lorapar.stages.plan import make_plan


def states(folder, *overrides):
    plan = make_plan(with_registry(load_config(preset="tiny", overrides=overrides), folder))
    return {entry.node.name: entry for entry in preview(plan, RunFolder(folder))}


def test_in_a_new_folder_everything_runs(tmp_path):
    assert not any(entry.reused for entry in states(tmp_path).values())


def test_in_a_finished_folder_everything_is_reused_but_what_always_runs(tiny_run):
    planned = states(tiny_run)
    always = {"plan", "publish", "gate", "promote", "report"}
    assert {name for name, entry in planned.items() if not entry.reused} == always
    assert planned["promote"].reason == "only where gate says so"


def test_a_new_setting_of_what_always_runs_reaches_what_follows(tiny_run):
    planned = states(tiny_run, "name=other")
    assert planned["rl"].reused
    assert planned["evaluate"].reason == "after publish"


def test_the_changed_setting_is_named(tiny_run):
    planned = states(tiny_run, "partition.theta=0.5")
    assert planned["score-system1"].reused
    assert not planned["partition"].reused
    assert "partition.theta 0.9 -> 0.5" in planned["partition"].reason
    assert planned["sft"].reason == "after partition"


def test_changed_bytes_at_the_same_address_rerun_what_reads_them(tmp_path):
    from lorapar.local.runner import run_local
    from tests.local.test_run import Spoken

    file = tmp_path / "rows.jsonl"
    rows = [f'{{"question": "What is {n} plus 1?", "answer": "{n + 1}", "reference": "{n + 1}"}}' for n in range(12)]
    file.write_text("\n".join(rows), encoding="utf-8")
    overrides = (f"data.source={file}", "data.columns={reference: reference}")
    run_local(load_config(preset="tiny", overrides=overrides), tmp_path / "run", Spoken(), until="prepare")
    assert states(tmp_path / "run", *overrides)["prepare"].reused
    file.write_text("\n".join(rows).replace("plus 1", "plus one"), encoding="utf-8")
    planned = states(tmp_path / "run", *overrides)["prepare"]
    assert not planned.reused
    assert "data.digest" in planned.reason


def test_damaged_files_are_named(tiny_copy):
    file = tiny_copy / "stages" / "partition" / "partition" / "summary.json"
    file.write_text("{}", encoding="utf-8")
    entry = states(tiny_copy)["partition"]
    assert not entry.reused
    assert "summary.json" in entry.reason


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([{"name": "chat", "weight": 1}], [{"name": "chat", "weight": 2}], "teachers[chat].weight 1 -> 2"),
        ([{"name": "chat"}, {"name": "b"}], [{"name": "chat"}], "teachers[b] {'name': 'b'} -> None"),
        (
            [{"name": "a"}, {"name": "b"}],
            [{"name": "b"}, {"name": "a"}],
            "the order of teachers ['a', 'b'] -> ['b', 'a']",
        ),
        (["x", "y"], ["x", "z", "w"], "teachers[1] y -> z; teachers[2] None -> w"),
        (
            "row " * 30 + "one way",
            "row " * 30 + "another way",
            "teachers ...row row row one way -> ...row row row another way",
        ),
        ((1, 2), [1, 2], ""),
    ],
)
def test_a_change_within_a_list_or_a_long_text_is_shown_where_it_is(before, after, message):
    old, new = (
        StageRecord(node="n", stage="tally", version="1", settings={"teachers": value}, inputs={}, code="c")
        for value in (before, after)
    )
    assert changes(old, new) == message
