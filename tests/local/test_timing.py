"""Records of how long stages took: of what shape they are, which are kept, and what is told by them."""

from dataclasses import replace
from typing import Any

import pytest

from lorapar.config import load_config
from lorapar.local import execute, timing
from lorapar.local.timing import ROOT, Expected, Rows, Timing, Todo, expected, kept_timings, todo
from lorapar.records import Example, write_records
from lorapar.stages.contract import StageCall
from lorapar.stages.plan import make_plan
from lorapar.store import open_store
from tests.notes import Notes

HERE = ("this machine, 2 cores", 1)
ROWS = Rows(train=100, heldout=20, voted=120, mean_bytes=200.0)


def settings_of(node: str, *overrides: str) -> dict[str, Any]:
    return make_plan(load_config(preset="tiny", overrides=list(overrides))).sections[node]


def planned(node: str, *overrides: str, rows: Rows = ROWS, **options: Any) -> Todo | None:
    settings = settings_of(node, *overrides)
    return todo(node.partition("-")[0], settings, rows, **options)


def took(seconds: float, work: float = 10.0, place: tuple[str, int] = HERE, **other: Any) -> Timing:
    return Timing(shape="s", work=work, device=place[0], processes=place[1], seconds=seconds, **other)


@pytest.mark.parametrize(
    ("node", "setting"),
    [
        ("sft", "sft.batch_size=2"),
        ("sft", "sft.max_length=128"),
        ("sft", "model.dtype=bfloat16"),
        ("sft", "sft.max_steps=null"),
        ("rl", "rl.num_generations=2"),
        ("rl", "rl.max_completion_length=16"),
        ("evaluate", "evaluate.max_new_tokens=16"),
        ("score-system1", "score.batch_size=1"),
        ("vote-first", "voting.role_play=false"),
        ("init", "adapter.rank=2"),
        ("publish", "adapter.rank=2"),
    ],
)
def test_what_decides_the_time_is_of_the_shape(node: str, setting: str) -> None:
    mine, other = planned(node), planned(node, setting)
    assert mine is not None
    assert other is not None
    assert mine.shape != other.shape


@pytest.mark.parametrize(
    ("node", "setting", "work"),
    [
        ("sft", "sft.max_steps=30", (3, 30)),
        ("sft", "sft.learning_rate=0.01", (3, 3)),
        ("rl", "rl.max_steps=20", (2, 20)),
        ("rl", "rl.scheduler=constant", (2, 2)),
        ("evaluate", "evaluate.limit=5", (60, 30)),  # of each of two systems, by three models
        ("evaluate", "evaluate.confidence=0.9", (60, 60)),
        ("score-system1", "score.examples=8", (4, 8)),
        ("init", "seed=5", (1, 1)),
    ],
)
def test_how_much_there_is_to_do_is_not_of_the_shape(node: str, setting: str, work: tuple[float, float]) -> None:
    mine, other = planned(node), planned(node, setting)
    assert mine is not None
    assert other is not None
    assert mine.shape == other.shape
    assert (mine.work, other.work) == work


def test_without_steps_rows_times_epochs_are_the_work() -> None:
    one = planned("sft", "sft.max_steps=null", "sft.epochs=2")
    assert one is not None
    assert one.work == 200
    assert planned("sft", "sft.max_steps=null", rows=Rows()) is None, "rows of a hub are not counted"


@pytest.mark.parametrize(
    ("node", "overrides", "rows"),
    [
        ("vote-rest", (), ROWS),
        ("rl", ("rl.filter={samples: 4}",), Rows()),
        ("rl", ("rl.rewards={tone: {judge: {endpoint: 'http://127.0.0.1:9/v1', model: j}}}",), ROWS),
        ("publish", ("publish.pick=best", "data.development=0.1"), ROWS),  # none of its rows has a reference
        ("score-system1", (), replace(ROWS, train=3)),  # fewer than score.examples
        ("evaluate", (), Rows()),
        ("partition", (), ROWS),
    ],
)
def test_what_cannot_be_foretold_is_not_reported(node: str, overrides: tuple[str, ...], rows: Rows) -> None:
    assert planned(node, *overrides, rows=rows) is None


FILTERED = "phases=[{system: system2, method: rl, settings: {filter: {samples: 4}}}]"


@pytest.mark.parametrize("overrides", [("rl.filter={samples: 4}",), (FILTERED,)])
def test_rl_behind_a_filter_is_timed_by_runs_over_as_many_rows(overrides) -> None:
    """All rows are asked, and some of them learned from: how long both take is in no proportion to either."""
    mine = planned("rl", *overrides)
    assert mine is not None
    assert mine.work == 1
    for other in (
        planned("rl", *overrides, rows=replace(ROWS, train=200)),
        planned("rl", *overrides, "rl.max_steps=20"),
        planned("rl", *(one.replace("samples: 4", "samples: 8") for one in overrides)),
    ):
        assert other is not None
        assert other.shape != mine.shape


def test_what_picks_an_adapter_is_timed_by_its_rows_and_candidates() -> None:
    picks, rows = ("publish.pick=best", "data.development=0.1"), replace(ROWS, judged=12)
    mine, more = planned("publish", *picks, rows=rows), planned("publish", *picks, rows=replace(rows, judged=24))
    assert mine is not None
    assert more is not None
    assert (mine.work, more.work, mine.shape == more.shape) == (12, 24, True)
    others = [
        planned("publish", *picks, more, rows=rows) for more in ("publish.candidates=2", "evaluate.max_new_tokens=16")
    ]
    assert mine.shape not in {one.shape for one in others if one is not None} | {planned("publish", rows=rows).shape}


def test_a_partition_is_timed_by_the_elements_of_all_systems() -> None:
    two = planned("partition", rows=Rows(elements=1000))
    other = planned("partition", "partition.theta=0.8", rows=Rows(elements=500))
    assert two is not None
    assert other is not None
    assert (two.work, other.work) == (2000, 1000)
    assert two.row_bytes is None
    assert two.shape == planned("partition", "seed=5", rows=Rows(elements=1)).shape
    assert two.shape != other.shape


@pytest.mark.parametrize(
    ("node", "metrics", "message"),
    [
        ("partition", {"elements": 700.0}, 1400),
        ("rl", {"filter_recalled": 0.0}, 1),
        ("rl", {"filter_recalled": 3.0}, None),
        ("rl", {"1_system2_rl_filter_recalled": 3.0}, None),
        ("publish", {"candidates": 3.0}, 2),
        ("publish", {"candidates": 3.0, "recalled": 4.0}, None),
        ("publish", {"candidates": 3.0, "proof_recalled": 1.0}, None),
    ],
)
def test_a_record_counts_what_was_asked_and_is_none_where_answers_were_known(tmp_path, node, metrics, message) -> None:
    row = Example(id="a", question="1+1?", answer="2", reference="2", split="development")
    rows = [row, row.model_copy(update={"id": "b"}), row.model_copy(update={"id": "c", "reference": None})]
    write_records(tmp_path / "examples.jsonl", [*rows, row.model_copy(update={"id": "d", "split": "train"})])
    settings = settings_of(node, "rl.filter={samples: 4}", "publish.pick=best", "data.development=0.1")
    record = execute.new_record(node, node, settings, {})
    record = record.model_copy(update={"seconds": 3.0, "metrics": metrics})
    names = {"rl": ("system1", "system2"), "publish": ("examples",)}.get(node, ())
    inputs = dict.fromkeys(names, (tmp_path,))
    call: StageCall[Any] = StageCall(settings=None, inputs=inputs, outputs={}, scratch=tmp_path)
    found = timing.timing_of(record, call)
    assert (found and found.work) == message


def test_a_phase_that_switches_the_filter_off_is_reported() -> None:
    phase = "phases=[{system: system2, method: rl, settings: {filter: null}}]"
    assert planned("rl", "rl.filter={samples: 4}", phase) is not None


def test_the_second_place_of_the_graph_scores_all_named_systems_but_the_first() -> None:
    """One node reads so many rows of each; a record of two systems foretells three, and too few rows nothing."""
    two = planned("score-system2")
    assert two is not None
    settings = {**settings_of("score-system2"), "system_names": ["recall", "sums", "code"]}
    three = todo("score", settings, ROWS)
    assert three is not None
    assert (two.work, three.work, three.shape) == (4, 8, two.shape)
    assert todo("score", settings, replace(ROWS, train=7)) is None
    assert todo("score", settings, replace(ROWS, train=8)) == three
    first = todo("score", {**settings, "system": "system1"}, ROWS)
    by_name = todo("score", {**settings, "system": "code"}, ROWS)
    assert first is not None
    assert by_name is not None
    assert first.work == by_name.work == 4


@pytest.mark.parametrize(
    ("lines", "metrics", "work"),
    [
        ({"examples": 9, "code": 9}, {"rows": 4.0}, 8),
        ({"examples": 30, "code": 3}, {"rows": 4.0}, None),  # of one fewer were scored than are set
        ({"examples": 9, "code": 9}, {"rows": 0.0}, None),  # an adapter that is trained as a whole
    ],
)
def test_a_record_of_scores_counts_the_rows_of_each_system(tmp_path, lines, metrics, work) -> None:
    for name, count in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * count)
    settings = {**settings_of("score-system2"), "system_names": ["recall", "sums", "code"]}
    record = execute.new_record("score-system2", "score", settings, {})
    record = record.model_copy(update={"seconds": 3.0, "metrics": metrics})
    call: StageCall[Any] = StageCall(settings=None, inputs={"rows": (tmp_path,)}, outputs={}, scratch=tmp_path)
    found = timing.timing_of(record, call)
    assert (found and found.work) == work


def test_a_model_in_a_folder_goes_by_what_is_in_it_and_one_of_the_hub_by_its_name() -> None:
    settings = settings_of("sft")

    def shape(**model: Any) -> str:
        found = todo("sft", {**settings, "model": {"dtype": "float32", **model}}, ROWS)
        assert found is not None
        return found.shape

    assert shape(name="/models/a", digest="1") == shape(name="/models/b", digest="1")
    assert shape(name="/models/a", digest="1") != shape(name="/models/a", digest="2")
    assert shape(name="owner/a", digest="1") == shape(name="owner/a", digest="2")
    assert shape(name="owner/a", digest="1") != shape(name="owner/b", digest="1")


def test_what_teachers_are_called_does_not_decide_the_time_and_how_they_are_asked_does() -> None:
    asked = "teachers=[{name: %s, weight: %s, batch_size: %s}]"
    shapes = [planned("vote-first", asked % one).shape for one in (("a", 1, 4), ("b", 2, 4), ("a", 1, 8))]
    assert shapes[0] == shapes[1] != shapes[2]


def test_only_stages_that_share_their_rows_count_processes(monkeypatch) -> None:
    monkeypatch.setattr(timing, "visible_gpus", lambda: 4)
    assert [timing.processes_here(stage, None) for stage in ("init", "sft", "evaluate")] == [1, 4, 4]
    assert timing.processes_here("sft", 2) == 2


def test_one_phase_with_a_name_and_several_tell_of_their_like_only() -> None:
    """How the steps of a phase of its own add up with the others', a shape does not know: all settings are in it."""
    named = "phases=[{system: system2, method: rl, settings: {max_steps: %d}}]"
    for one, other in ((named % 2, named % 4), ("phases=[rl, sft]", "phases=[sft+rl]")):
        mine, its = planned("rl", one), planned("rl", other)
        assert mine is not None
        assert its is not None
        assert mine.work == its.work == 1
        assert mine.shape != its.shape


def test_sharding_counts_in_training_only() -> None:
    for node, same in (("sft", False), ("rl", False), ("evaluate", True)):
        assert (planned(node) == planned(node, sharding="fsdp2")) is same, node


def test_the_median_of_equal_runs_is_reported_and_others_are_not_scaled() -> None:
    timings = [took(10.0), took(30.0), took(11.0), took(500.0, work=100.0)]
    assert expected(Todo("s", 10.0, None), timings, *HERE) == Expected(11.0, 3, False, *HERE)


def test_runs_with_other_steps_are_scaled_and_that_is_reported() -> None:
    timings = [took(10.0, work=5.0), took(40.0, work=10.0)]
    assert expected(Todo("s", 20.0, None), timings, *HERE) == Expected(60.0, 2, True, *HERE)


def test_another_machine_is_asked_only_where_this_one_has_no_run() -> None:
    far = ("NVIDIA H200", 2)
    timings = [took(1.0, place=far), took(9.0)]
    assert expected(Todo("s", 10.0, None), timings, *HERE) == Expected(9.0, 1, False, *HERE)
    assert expected(Todo("s", 10.0, None), timings[:1], *HERE) == Expected(1.0, 1, False, *far)


def test_without_a_run_of_this_shape_nothing_is_reported() -> None:
    assert expected(Todo("s", 10.0, None), [], *HERE) is None
    assert expected(Todo("t", 10.0, None), [took(1.0)], *HERE) is None
    assert expected(Todo("s", 10.0, 300.0), [took(1.0, row_bytes=200.0)], *HERE) is None, "much longer rows"
    assert expected(Todo("s", 10.0, 220.0), [took(1.0, row_bytes=200.0)], *HERE) is not None
    assert expected(Todo("s", 10.0, 220.0), [took(1.0)], *HERE) is not None, "of unknown size"
    assert expected(Todo("s", 10.0, None), [took(1.0, row_bytes=200.0)], *HERE) is not None


@pytest.mark.parametrize(
    "foreign", [b"", b"\xff\xfe", b"[]", b'{"shape": "s"}', took(1.0).model_dump_json().replace("1.0", "0.0").encode()]
)
def test_a_damaged_or_foreign_record_is_passed_over(tmp_path, foreign: bytes) -> None:
    store = open_store(tmp_path / "store")
    store.write(f"{ROOT}/sft-s/1.json", took(7.0).model_dump_json().encode())
    store.write(f"{ROOT}/sft-s/2.json", foreign)
    assert kept_timings(store, "sft", "s") == [took(7.0)]


@pytest.fixture
def init_once(tmp_path, monkeypatch):
    """Runs `init` by a stand-in for the stage, with a store; returns what was recorded and said."""
    settings, store = settings_of("init"), open_store(tmp_path / "store")
    config = load_config(preset="tiny").checkpoint

    def once(*, metrics=None, left: str | None = None, crew=None) -> tuple[list[Timing], list[str]]:
        scratch, progress = tmp_path / "scratch", Notes()
        scratch.mkdir(exist_ok=True)
        if left is not None:
            (scratch / left).write_text("of an earlier call")
        call: StageCall[Any] = StageCall(
            settings=None, inputs={}, outputs={}, scratch=scratch, progress=progress, crew=crew
        )
        made = {"seconds": 12.5, "metrics": metrics or {}, "finished": "2026-01-02T03:04:05+00:00"}
        monkeypatch.setattr(execute, "execute", lambda record, _call: record.model_copy(update=made))
        with execute.executed(execute.new_record("init", "init", settings, {}), call, store, config):
            pass
        wanted = todo("init", settings, Rows())
        assert wanted is not None
        return kept_timings(store, "init", wanted.shape), progress.lines

    return once


def test_a_stage_that_ran_whole_leaves_a_record(init_once) -> None:
    (one,), message = init_once(left=".hidden")
    assert (one.seconds, one.work, one.processes, message) == (12.5, 1.0, 1, [])


@pytest.mark.parametrize(
    "how",
    [
        {"left": "checkpoint-3"},
        {"metrics": {"recalled": 2.0}},
        {"metrics": {"failed_teachers": 1.0}},
        {"crew": object()},
    ],
)
def test_one_that_went_on_or_knew_answers_or_shared_its_work_leaves_none(init_once, how) -> None:
    assert init_once(**how) == ([], [])


def test_a_record_that_cannot_be_made_does_not_fail_the_stage(init_once, monkeypatch) -> None:
    def broken() -> str:
        raise RuntimeError("no such device")

    monkeypatch.setattr(timing, "device_name", broken)
    assert init_once() == ([], ["how long it took is not in the store: no such device"])
