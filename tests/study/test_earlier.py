"""What a folder holds of an earlier start is not lost: to another study, other settings, a broken file, a version."""

import json
import shutil

import pytest

from lorapar.errors import BadInputError, ExitCode, LoraparError
from lorapar.local.folder import RunFolder, StageRecord
from tests.study.stand_ins import STUDY, Workers, called, edited, ran

FIRST, SECOND = "theta-0.9-seed0", "theta-0.5-seed0"


@pytest.fixture
def workers(monkeypatch):
    return Workers(monkeypatch)


@pytest.fixture
def few(workers, tmp_path):
    """The folder of a finished study of two cells."""
    ran(tmp_path / "few", STUDY)
    workers.started.clear()
    return tmp_path / "few"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        (STUDY.replace("few", "other"), (), r"study few, now other"),
        (STUDY, ("--set", "sft.max_steps=2"), r"'theta 0.9, seed 0' with other settings \(sft.max_steps 3, now 2\)"),
        (STUDY + "settings: {sft.max_steps: 2}", (), r"'theta 0.9, seed 0' .*\(sft.max_steps 3, now 2\)"),
        (STUDY + "until: partition", (), r"until execute, now partition"),
        (STUDY.replace("0.9, 0.5", "0.8"), ("--set", "sft.max_steps=2"), r"of other settings \(sft.max_steps 3"),
    ],
)
def test_a_folder_of_other_results_is_refused_and_stays_as_it_is(few, workers, text, more, told):
    before = contents(few)
    with pytest.raises(BadInputError, match=rf"{told}.*; give another --out"):
        ran(few, text, *more)
    assert contents(few) == before
    assert not workers.started


def test_a_cell_of_the_same_name_with_settings_of_its_own_is_named(few, workers):
    text = "name: few\ntitle: t\nseeds: [0]\ncells:\n- {name: theta 0.9, settings: {partition.theta: 0.9}}\n"
    more = "- {name: theta 0.5, settings: {partition.theta: 0.4}}"
    with pytest.raises(
        BadInputError, match=r"'theta 0.5, seed 0' with other settings \(partition.theta 0.5, now 0.4\)"
    ):
        ran(few, text + more)


def test_a_study_may_gain_and_lose_cells_and_seeds_and_say_more_in_its_tables(few, workers):
    text = STUDY.replace("0.9, 0.5", "0.5, 0.7").replace("title: t", "title: What now?\nconfidence: 0.9\nparallel: 2")
    told = ran(few, text, "--seeds", "0,1", "--store", str(few / "elsewhere"))
    assert "1 of 4 cells have finished before and are kept" in told
    assert sorted(workers.started) == ["theta-0.5-seed1", "theta-0.7-seed0", "theta-0.7-seed1"]
    assert (few / "cells" / FIRST / "result.json").is_file()


def test_results_whose_digest_an_earlier_build_counted_otherwise_still_count(few, workers):
    for file in few.glob("cells/*/*.json"):
        written = json.loads(file.read_text())
        file.write_text(file.read_text().replace(written["digest"], "0" * 64))
    assert "2 of 2 cells have finished before and are kept" in ran(few, STUDY)
    assert not workers.started
    assert "2 of 2 runs finished" in (few / "report.md").read_text()


def test_what_has_failed_may_be_tried_with_other_settings(workers, tmp_path):
    """However far its run came: a plan is no result."""
    workers.codes = {FIRST: 2, SECOND: 2}
    with pytest.raises(LoraparError, match="2 of 2 cells failed"):
        ran(tmp_path / "few", STUDY)
    run = RunFolder(tmp_path / "few" / "cells" / FIRST / "run")
    run.node("plan").mkdir(parents=True)
    run.write_record(
        run.node("plan"), StageRecord(node="plan", stage="plan", version="1", settings={}, inputs={}, code="c")
    )
    assert run.records()
    workers.codes = {}
    assert "2 of 2 runs finished" in (ran(tmp_path / "few", STUDY, "--set", "sft.max_steps=2") and report(tmp_path))


def report(folder):
    return (folder / "few" / "report.md").read_text()


@pytest.mark.parametrize("text", ["", '{"status": "fin', "[]", None])
def test_a_result_counts_where_the_state_of_its_cell_is_lost(few, workers, text):
    for cell in (FIRST, SECOND):
        path = few / "cells" / cell / "state.json"
        path.unlink() if text is None else path.write_text(text)
    before = report(few.parent)
    called("report", few)
    assert report(few.parent) == before
    assert "2 of 2 cells have finished before" in ran(few, STUDY)
    assert called("status", few).count("finished") == 2
    assert not workers.started


def test_a_result_written_before_it_named_its_version_counts_too(few, workers):
    for cell in (FIRST, SECOND):
        own = few / "cells" / cell
        values = json.loads((own / "result.json").read_text())
        (own / "result.json").write_text(json.dumps({k: v for k, v in values.items() if k not in ("version", "until")}))
        (own / "state.json").unlink()
    assert "2 of 2 cells have finished before" in ran(few, STUDY)


def of_another_version(folder):
    for cell in (FIRST, SECOND):
        for name in ("state.json", "result.json"):
            edited(folder / "cells" / cell / name, version="0.0.1")


def test_tables_of_another_version_are_not_replaced_by_empty_ones(few):
    of_another_version(few)
    before = contents(few)
    with pytest.raises(BadInputError, match=r"no cell has finished with these settings .* stay as they are"):
        called("report", few)
    assert contents(few) == before


def test_a_result_of_another_version_is_kept_until_there_is_a_new_one(few, workers):
    of_another_version(few)
    old, tables = (few / "cells" / SECOND / "result.json").read_bytes(), (few / "figures.csv").read_bytes()
    workers.codes = {FIRST: 13, SECOND: 13}
    with pytest.raises(LoraparError, match="2 of 2 cells failed"):
        ran(few, STUDY)
    assert (few / "cells" / SECOND / "result.before.json").read_bytes() == old
    assert (few / "figures.csv").read_bytes() == tables
    with pytest.raises(BadInputError, match="with other settings"):
        ran(few, STUDY, "--set", "sft.max_steps=2")
    workers.codes = {}
    ran(few, STUDY)
    assert not list(few.glob("cells/*/result.before.json"))
    assert "2 of 2 runs finished" in report(few.parent)


BROKEN = {
    "no JSON": "{",
    "no object": "[]",
    "seconds": {"cost": {"seconds": "x"}},
    "null": {"cost": {"seconds": None}},
    "regions": {"regions": [1]},
    "again": {"again": {"system2": "high"}},
    "key": {"steps": {"rl": {"stage": "rl", "key": 1, "seconds": 1.0}}},
    "letters": {"measures": {"system2": {"rows": ["a"], "right": {"after_rl": "++"}}}},
}


@pytest.mark.parametrize("wrong", [*BROKEN, "folder"])
def test_a_result_that_cannot_be_read_is_named_and_the_others_are_shown(few, workers, wrong):
    path = few / "cells" / FIRST / "result.json"
    if wrong == "folder":
        path.unlink()
        path.mkdir()
    elif isinstance(BROKEN[wrong], str):
        path.write_text(BROKEN[wrong])
    else:
        edited(path, **{key: {**json.loads(path.read_text())[key], **new} if isinstance(new, dict) else new
                        for key, new in BROKEN[wrong].items()})  # fmt: skip
    told = called("report", few)
    if wrong != "folder":
        assert "Left out is theta 0.9, seed 0:" in told
        assert f"{path}: is broken" in told.replace("\n", "")
        assert "Left out is theta 0.9, seed 0:" in report(few.parent)
    assert "1 of 2 runs finished" in report(few.parent)


def test_the_exit_code_is_that_of_the_cells_whatever_is_wrong_with_the_report(few, workers):
    (few / "cells" / FIRST / "result.json").write_text("{")
    shutil.rmtree(few / "cells" / SECOND)
    (few / "report.html").unlink()
    (few / "report.html").mkdir()
    workers.codes = {SECOND: 13}
    with pytest.raises(LoraparError, match="1 of 2 cells failed") as failed:
        ran(few, STUDY)
    assert failed.value.exit_code == 13


def test_a_state_that_is_a_folder_is_one_line(few):
    path = few / "cells" / FIRST / "state.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInputError, match=r"state.json: cannot be read \(Is a directory\)"):
        called("status", few)
    assert "1 of 2 runs finished" in (called("report", few) and report(few.parent))


def test_settings_of_a_study_that_are_no_text_are_one_line(few):
    path = few / "study.yaml"
    path.write_bytes(b"\xff\xfe")
    for command in ("status", "report"):
        with pytest.raises(BadInputError, match=r"study.yaml is not UTF-8"):
            called(command, few)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInputError, match=r"study.yaml cannot be read"):
        called("report", few)


def test_a_study_does_not_write_into_the_folder_of_a_search(workers, tmp_path):
    out = tmp_path / "few"
    out.mkdir()
    (out / "search.yaml").write_text("search: {}\n")
    (out / "report.md").write_text("what the search has found")
    with pytest.raises(BadInputError, match=r"is the folder of a search .*; give another --out"):
        ran(out, STUDY)
    assert (out / "report.md").read_text() == "what the search has found"


def test_a_worker_that_cannot_say_how_it_ended_has_not_finished(workers, tmp_path):
    """A thread that follows a run in Kubeflow and dies on its way, as on a full disk."""
    workers.codes = {FIRST: None}
    with pytest.raises(LoraparError, match=r"1 of 2 cells failed \(theta 0.9, seed 0: without a word, see") as failed:
        ran(tmp_path / "few", STUDY)
    assert failed.value.exit_code == ExitCode.BUG
    assert "1 of 2 runs finished" in report(tmp_path)


@pytest.mark.parametrize(
    ("text", "seeds", "told"),
    [
        (STUDY, "1.0", r"--seeds: seeds.0: must be a whole number .*\(got '1.0'\)"),
        (STUDY, "true", r"--seeds: seeds.0: must be a whole number"),
        (STUDY.replace("0.5]", f"0.5], model.name: [{'long' * 75}]"), "0", r"would have a folder of 3\d\d characters"),
    ],
)
def test_what_cannot_be_a_cell_is_refused_before_anything_is_written(workers, tmp_path, text, seeds, told):
    with pytest.raises(BadInputError, match=told):
        ran(tmp_path / "few", text, "--seeds", seeds)
    assert not (tmp_path / "few").exists()


def test_tokens_that_sft_read_stand_beside_its_steps_and_old_results_do_without(few):
    path = few / "cells" / SECOND / "result.json"
    cost = json.loads(path.read_text())["cost"]
    edited(path, cost={key: value for key, value in cost.items() if key != "sft_tokens"})
    called("report", few)
    rows = [line.split(" | ") for line in report(few.parent).splitlines() if line.startswith("| theta")][-2:]
    heads = next(line for line in report(few.parent).splitlines() if "SFT tokens" in line).split(" | ")
    assert [row[heads.index("SFT tokens")] for row in rows] == ["1,200", "–"]  # noqa: RUF001
