"""Base models, data and what is left over, from and in a real bucket."""

import json
import time

import pytest

from lorapar.basemodel import load_tokenizer, model_folder, resolve_model
from lorapar.basemodel.bucket import mirror_model
from lorapar.basemodel.shape import model_shape
from lorapar.config import DataConfig, ModelConfig
from lorapar.data import data_digest, load_data, resolve_data
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Silent
from lorapar.store import open_store, put_tree
from lorapar.store.garbage import find_garbage, remove_garbage
from tests.integration.conftest import use_identity

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
ROWS = [{"question": f"What is {n} plus 1?", "answer": str(n + 1), "reference": str(n + 1)} for n in range(8)]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache, filled with nothing but the tiny model once it is asked for."""
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mirrored(s3_address, own_cache):
    """The tiny model in a bucket."""
    mirror_model(TINY, s3_address, Silent())
    return ModelConfig(name=s3_address, dtype="float32")


def rows(count):
    return "".join(json.dumps(row) + "\n" for row in ROWS[:count]).encode()


def test_mirrored_model_is_the_model(mirrored, own_cache):
    resolved = resolve_model(mirrored)
    folder = model_folder(resolved)
    assert folder.is_relative_to(own_cache)
    original = model_folder(TINY)
    assert (folder / "model.safetensors").read_bytes() == (original / "model.safetensors").read_bytes()
    assert resolved.digest == resolve_model(ModelConfig(name=str(original))).digest, "that of the same files here"
    assert model_shape(resolved) == model_shape(resolve_model(TINY))
    assert load_tokenizer(resolved).chat_template == load_tokenizer(TINY).chat_template
    assert mirror_model(TINY, mirrored.name, Silent())[1].files, "a second call finds everything there"


def test_cached_model_needs_no_server(mirrored, s3_server, monkeypatch):
    resolved = resolve_model(mirrored)
    folder = model_folder(resolved)
    use_identity(monkeypatch, s3_server.environment(endpoint="http://127.0.0.1:9"))
    assert model_folder(resolved) == folder


def test_model_of_another_tool_is_known_by_versions_and_a_change_is_noticed(s3_server, s3_address, own_cache):
    store = open_store(s3_address)
    for path in model_folder(TINY).iterdir():
        store.upload(path, path.name)
    model = ModelConfig(name=s3_address)
    first = resolve_model(model)
    assert model_folder(first).joinpath("config.json").is_file()
    store.write("generation_config.json", b"{}")
    second = resolve_model(model)
    assert second.digest != first.digest
    store.write("generation_config.json", b'{"x": 1}')
    with pytest.raises(IntegrityError, match="has changed since the run was planned"):
        model_folder(second)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is nothing at s3://.*lorapar models mirror"),
        ({"a.txt": b""}, "has no config.json"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, r"holds no \.safetensors weights"),
    ],
)
def test_addresses_that_hold_no_model(s3_address, files, message):
    store = open_store(s3_address)
    for name, data in files.items():
        store.write(name, data)
    with pytest.raises(BadInputError, match=message):
        resolve_model(ModelConfig(name=s3_address))


def test_rows_of_a_bucket_are_those_of_the_file(s3_address, own_cache, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(rows(8))
    open_store(s3_address).write("rows.jsonl", rows(8))
    here, there = DataConfig(source=str(tmp_path / "rows.jsonl")), DataConfig(source=f"{s3_address}/rows.jsonl")
    assert data_digest(there) == data_digest(here)
    assert load_data(there, 0).examples == load_data(here, 0).examples
    assert resolve_data(there).digest == data_digest(here)


def test_changed_rows_at_the_same_address_have_another_digest(s3_address, own_cache):
    store, config = open_store(s3_address), DataConfig(source=f"{s3_address}/rows.jsonl")
    store.write("rows.jsonl", rows(4))
    first = data_digest(config)
    store.write("rows.jsonl", rows(5))
    assert data_digest(config) != first
    assert len(load_data(config, 0).examples) == 5


def test_prefix_with_several_files_is_read_in_order_as_a_folder_is(s3_address, own_cache, tmp_path):
    store, folder = open_store(s3_address), tmp_path / "rows"
    folder.mkdir()
    for name, data in {"b.jsonl": rows(8)[len(rows(4)) :], "a.jsonl": rows(4), "notes.txt": b"no rows"}.items():
        store.write(name, data)
        (folder / name).write_bytes(data)
    there, here = DataConfig(source=s3_address), DataConfig(source=str(folder))
    assert [row.question for row in load_data(there, 0).examples] == [row["question"] for row in ROWS]
    assert data_digest(there) == data_digest(here)


def test_complaint_about_a_row_names_its_address(s3_address, own_cache):
    open_store(s3_address).write("rows.jsonl", rows(2) + b'{"question": "x"}\n')
    with pytest.raises(BadInputError, match=f"{s3_address}/rows.jsonl:3: a row without an answer"):
        load_data(DataConfig(source=f"{s3_address}/rows.jsonl"), 0)


def test_rows_that_are_not_there(s3_address, own_cache):
    with pytest.raises(BadInputError, match=r"there is no object .*/rows\.jsonl"):
        data_digest(DataConfig(source=f"{s3_address}/rows.jsonl"))
    open_store(s3_address).write("notes.txt", b"")
    with pytest.raises(BadInputError, match=r"no file below .* ends in one of"):
        data_digest(DataConfig(source=s3_address))


def test_gc_removes_what_nothing_reaches_and_aborts_old_uploads(store, tree, s3_server, s3_bucket):
    manifest = put_tree(store, tree)
    kept = next(entry for name, entry in manifest.files.items() if name.endswith("5.bin"))
    store.write("runs/one/x.json", json.dumps({"file": kept.sha256}).encode())
    s3_server.client().create_multipart_upload(Bucket=s3_bucket, Key="prefix/cas/half")
    time.sleep(1.5)
    found = find_garbage(store, grace_seconds=0)
    assert found.reached == 1
    assert found.unfinished == 1
    removed = remove_garbage(store, found, grace_seconds=0)
    assert removed == len({entry.sha256 for entry in manifest.files.values()}) - 1
    assert [info.key for info in store.list("cas/")] == [f"cas/{kept.sha256}"]
    assert store.unfinished(time.time() + 10) == 0
