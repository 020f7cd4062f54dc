"""What a source is, and the digest that says whether it changed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import constants
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.config import DataConfig, TaskMixConfig
from lorapar.data import data_digest, load_data, resolve_data
from lorapar.data.source import refuse_beside
from lorapar.errors import BadInputError, UnreachableError


def test_a_file_is_known_by_its_bytes(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path in (first, second):
        path.write_text('{"question": "q", "answer": "a"}\n')
    digest = data_digest(DataConfig(source=str(first)))
    assert digest == data_digest(DataConfig(source=str(second), mapping="gsm8k", heldout=0))
    second.write_text('{"question": "q", "answer": "b"}\n')
    assert digest != data_digest(DataConfig(source=str(second)))


def test_the_task_mix_is_known_by_its_code_and_sizes():
    digest = data_digest(DataConfig())
    assert digest == data_digest(DataConfig())
    assert digest != data_digest(DataConfig(task_mix=TaskMixConfig(system1_train=3)))


def test_resolving_changes_nothing_else(tmp_path):
    config = DataConfig(task_mix=TaskMixConfig(system1_train=3))
    resolved = resolve_data(config)
    assert resolved.digest == data_digest(config)
    assert resolved.model_copy(update={"digest": None}) == config
    assert resolve_data(resolved) == resolved


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "gs://bucket/a.jsonl"}, r"gs://bucket/a\.jsonl is an address that cannot be read; known: task-mix"),
        ({"source": "task_mix"}, r"'task_mix' is not a source \(did you mean 'task-mix'\?\); known: task-mix, a file"),
        ({"source": "no/such.jsonl"}, r"there is no file no/such\.jsonl"),
        ({"source": "hub:not a name"}, r"data\.source: 'not a name' is neither .* nor a hub name"),
        ({"limit": 5}, r"data\.limit: does nothing for the task mix \(its sizes are data\.task_mix\); leave it out"),
        ({"split": "test"}, r"data\.split: does nothing for the task mix"),
        ({"source": "some/rows"}, r"'some/rows' is not a source \(did you mean 'hub:some/rows'\?\)"),
        ({"mapping": "gsm8k"}, r"data\.mapping: does nothing for the task mix"),
    ],
)
def test_sources_that_are_none(values, message):
    for read in (data_digest, lambda config: load_data(config, seed=0)):
        with pytest.raises(BadInputError, match=message):
            read(DataConfig(**values))


def test_a_hub_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    for read in (data_digest, lambda config: load_data(config, seed=0)):
        with pytest.raises(UnreachableError, match=r"data\.source: the hub did not answer for a/b .*a local file"):
            read(DataConfig(source="hub:a/b"))
    assert time.monotonic() - started < 10, "datasets' own retries would take half a minute"


def test_the_client_needs_no_heavy_library(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    script = f"""
import sys
from lorapar.config import DataConfig
from lorapar.data import data_digest, load_data
for config in (DataConfig(), DataConfig(source={str(path)!r}, heldout=0)):
    data_digest(config), load_data(config, 0)
assert not {{"torch", "datasets", "pyarrow", "pandas"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_says_which_of_its_files_are_rows(tmp_path, monkeypatch):
    for name in ("first/a.jsonl", "test/b.jsonl", "first/c.tar.gz", "notes.md", "LICENSE.txt", "d.xlsx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'{{"question": "{name}", "answer": "a"}}\n')
    folder, asked, real = str(tmp_path), [], Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: asked.append(path.name) or real(path))
    notes = load_data(DataConfig(source=folder, heldout=1), seed=0).notes
    assert f"{folder} holds 2 files, and all are read as one: first/a.jsonl, test/b.jsonl" in notes
    assert f"{folder} holds packed files, which are not read: first/c.tar.gz" in notes
    assert f"{folder} holds files of other kinds, which are not read: d.xlsx" in notes
    assert "LICENSE.txt" not in asked, "a network drive is asked about no file that is neither"
    alone = load_data(DataConfig(source=str(tmp_path / "test"), heldout=0), seed=0).notes
    assert not [note for note in alone if "holds" in note]


@pytest.mark.parametrize("splits", [True, False])
def test_a_folder_of_save_to_disk_is_refused_with_how_it_becomes_rows(tmp_path, splits):
    rows = Dataset.from_list([{"question": "q", "answer": "a"}])
    (DatasetDict(train=rows) if splits else rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInputError, match=r"saved was written by save_to_disk of datasets, .*to_parquet\("):
        data_digest(DataConfig(source=str(tmp_path / "saved")))


def test_rows_of_two_formats_in_one_source_belong_in_two(tmp_path):
    talk = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"question": "q", "answer": "a"}, talk])))
    with pytest.raises(BadInputError, match=r"jsonl:2: a row of another format: it has conversations .*data\.sources"):
        load_data(DataConfig(source=str(path), heldout=0), seed=0)


def test_a_file_beside_the_settings_is_named_where_the_command_is_run_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    (tmp_path / "mine" / "mine.yaml").write_text("data: {source: rows.jsonl}\n")
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "run"):
        ended = CliRunner().invoke(app, [command, "--config", "mine/mine.yaml"])
        assert str(ended.exception).startswith(
            "data.source: there is no rows.jsonl here, but one beside mine/mine.yaml: relative paths"
        )
        assert "; write mine/rows.jsonl or run it there" in str(ended.exception)
    monkeypatch.chdir(tmp_path / "mine")
    refuse_beside(DataConfig(source="rows.jsonl"), Path("mine.yaml"))
    refuse_beside(DataConfig(source="task-mix"), Path("mine.yaml"))
