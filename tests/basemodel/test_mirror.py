"""A base model copied to your own storage; from the hub's local cache by the hub's own code, nothing faked."""

import json

import pytest

from lorapar.basemodel import bucket, model_folder, tiny
from lorapar.basemodel.bucket import mirror_model, parse_name
from lorapar.basemodel.resolve import resolve_model
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Silent
from lorapar.store import open_store


@pytest.mark.parametrize(
    ("text", "name", "revision"), [("a/b", "a/b", None), ("a/b@v1", "a/b", "v1"), ("a/b@", "a/b", None)]
)
def test_name_and_revision(text, name, revision):
    model = parse_name(text)
    assert (model.name, model.revision) == (name, revision)


def test_no_name_is_an_error():
    with pytest.raises(BadInputError, match="no name of a model"):
        parse_name("@v1")


def test_folder_with_an_at_sign(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert parse_name(str(tmp_path / "a@b")).name.endswith("a@b")


def test_local_model_lies_there_with_a_manifest_and_without_pickles(tmp_path):
    source = model_folder(ModelConfig(name="builtin:tiny"))
    model, manifest = mirror_model(ModelConfig(name="builtin:tiny"), str(tmp_path / "mirror"), Silent())
    store = open_store(tmp_path / "mirror")
    assert model.digest
    assert manifest.kind == "model builtin:tiny"
    assert {info.key for info in store.list()} == {*manifest.files, "manifest.json"}
    assert store.read("config.json") == (source / "config.json").read_bytes()
    assert ModelConfig(name=str(tmp_path / "mirror")), "and is a model folder like any other"
    assert model_folder(ModelConfig(name=str(tmp_path / "mirror"))) == tmp_path / "mirror"


@pytest.mark.parametrize("damage", ["flipped byte", "missing"])
def test_damage_of_a_mirror_in_a_folder_is_noticed_and_mended(tmp_path, damage):
    mirror = tmp_path / "mirror"
    mirror_model(ModelConfig(name="builtin:tiny"), str(mirror), Silent())
    whole = resolve_model(ModelConfig(name=str(mirror)))
    weights = mirror / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    if damage == "missing":
        (mirror / "tokenizer_config.json").unlink()
    else:
        weights.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"mirrored.*`lorapar models mirror` again"):
        resolve_model(ModelConfig(name=str(mirror)))
    mirror_model(ModelConfig(name="builtin:tiny"), str(mirror), Silent())
    assert resolve_model(ModelConfig(name=str(mirror))) == whole


def test_pickled_weights_do_not_travel(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    _, manifest = mirror_model(ModelConfig(name=str(folder)), str(tmp_path / "mirror"), Silent())
    assert sorted(manifest.files) == ["config.json", "model.safetensors"]


def test_command_takes_a_commit_from_the_hubs_cache(cli, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    made = tmp_path / "hub" / "models--someone--model" / "snapshots" / commit
    made.mkdir(parents=True)
    (made.parents[1] / "refs").mkdir()
    (made.parents[1] / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (made / name).write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_plantedplantedplanted")
    done = cli("models", "mirror", "someone/model@main", tmp_path / "mirror")
    assert done.returncode == 0, done.stderr
    assert f"someone/model@{commit}: 3 files" in done.stdout
    assert json.loads((tmp_path / "mirror" / "manifest.json").read_text())["kind"] == f"model someone/model@{commit}"
    missing = cli("models", "mirror", "someone/other", tmp_path / "other")
    assert missing.returncode == 3
    assert "someone/other" in missing.stderr
    assert "planted" not in done.stdout + missing.stdout + missing.stderr


def test_the_settings_of_a_model_in_a_bucket_are_read_once_its_content_is_settled(tmp_path, monkeypatch):
    folder, opened = str(tmp_path / "model"), []
    mirror_model(ModelConfig(name="builtin:tiny"), folder, Silent())
    monkeypatch.setattr(bucket, "open_store", lambda address: opened.append(address) or open_store(address))
    settled = ModelConfig(name=folder, digest="0" * 64)
    bucket.bucket_config(settled)["hidden_size"] = 0
    assert bucket.bucket_config(settled)["hidden_size"] == tiny.HIDDEN
    assert opened == [folder]
    for _ in range(2):
        bucket.bucket_config(ModelConfig(name=folder))
    assert opened == [folder] * 3, "what is not settled may change"
