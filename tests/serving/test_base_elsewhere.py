"""Bases that were revised under their name: tokenizer, template, a branch of the hub, a bucket, a mirror."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorapar.basemodel.load import model_folder
from lorapar.cli import app
from lorapar.config import ModelConfig
from lorapar.errors import ExitCode, IntegrityError
from lorapar.records import read_json, write_json
from lorapar.registry import Registry
from lorapar.serving import AdapterCache, server_command
from lorapar.serving.base_address import compare_address
from lorapar.serving.base_identity import ServedBase, compare
from lorapar.store import open_store
from lorapar.store.copy import copy_up, find_tree
from tests.serving.test_base_identity import COMMIT, OTHER_COMMIT, digest_of_folder, model, publish  # noqa: F401
from tests.serving.test_command import options


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model folder, tokenizer and chat template included."""
    made = model_folder(ModelConfig(name="builtin:tiny"))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("base") / "own"))


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def change_json(path: Path, change: Any) -> None:
    value = read_json(path)
    change(value)
    write_json(path, value)


def swap_tokens(tokenizer: dict[str, Any]) -> None:
    """Give two words of the vocabulary each other's number: what a revised tokenizer does, and no shape shows it."""
    words = tokenizer["model"]["vocab"]
    one, two = [word for word in words if word.isalpha()][:2]
    words[one], words[two] = words[two], words[one]


def test_the_same_weights_with_another_tokenizer_are_another_base(whole: Path, tmp_path: Path) -> None:
    base = ModelConfig(name=str(whole), digest=digest_of_folder(whole))
    changed = copy(whole, tmp_path / "changed")
    change_json(changed / "tokenizer.json", swap_tokens)
    found = compare(base, changed)
    assert found.found == "other"
    assert found.is_there.endswith("its tokenizer is another one")


def test_a_tokenizer_that_was_saved_again_is_the_same(whole: Path, tmp_path: Path) -> None:
    """Indented otherwise, merges in pairs, and with what a call of its own had set."""
    base = ModelConfig(name=str(whole), digest=digest_of_folder(whole))
    again = copy(whole, tmp_path / "again")

    def save_again(tokenizer: dict[str, Any]) -> None:
        tokenizer["padding"] = {"strategy": "BatchLongest"}
        merges = tokenizer["model"].get("merges", [])
        tokenizer["model"]["merges"] = [one.split(" ") if isinstance(one, str) else " ".join(one) for one in merges]

    change_json(again / "tokenizer.json", save_again)
    assert (again / "tokenizer.json").read_bytes() != (whole / "tokenizer.json").read_bytes()
    assert compare(base, again).found == "same"


def test_another_chat_template_is_another_base(whole: Path, tmp_path: Path) -> None:
    base = ModelConfig(name=str(whole), digest=digest_of_folder(whole))
    for name, text in (("moved", None), ("changed", "{{ messages[0].content }}")):
        other = copy(whole, tmp_path / name)
        settings = read_json(other / "tokenizer_config.json")
        file = other / "chat_template.jinja"
        own = file.read_text() if file.is_file() else settings["chat_template"]
        file.unlink(missing_ok=True)
        write_json(other / "tokenizer_config.json", {**settings, "chat_template": text or own})
        found = compare(base, other)
        assert found.found == ("other" if text else "same")
        assert text is None or found.is_there.endswith("its chat template is another one")


def test_a_mirror_that_was_changed_is_not_what_was_mirrored(tmp_path: Path) -> None:
    own = model(tmp_path / "own", "weights")
    store = open_store(tmp_path / "mirror")
    copy_up(own, store, f"model owner/base@{COMMIT}")
    base = ModelConfig(name="owner/base", revision=COMMIT, digest="1" * 64)
    assert compare(base, tmp_path / "mirror").found == "same"
    (tmp_path / "mirror" / "model.safetensors").write_text("WEIGHTS")
    found = compare(base, tmp_path / "mirror")
    assert found.found == "other"
    assert "model.safetensors: its bytes are not those that were mirrored" in found.is_there


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub's cache whose branch `main` of `owner/base` is at some commit, with some weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def at(commit: str, weights: str = "weights") -> Path:
        place = tmp_path / "hub" / "models--owner--base"
        folder = model(place / "snapshots" / commit, weights)
        (folder / "tokenizer_config.json").write_text("{}")
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return folder

    return at


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("tokenizer.json", b"[1]", "tokenizer.json: it holds no JSON object"),
        ("tokenizer.json", b'{"model": {"merges": [1]}}', "tokenizer.json: its model is written as no tokenizer"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: its bytes are no UTF-8"),
    ],
)
def test_text_that_cannot_be_read_is_unknown(whole: Path, tmp_path: Path, file: str, text: bytes, why: str) -> None:
    damaged = copy(whole, tmp_path / "damaged")
    (damaged / file).write_bytes(text)
    found = compare(ModelConfig(name=str(whole), digest=digest_of_folder(whole)), damaged)
    assert found.found == "unknown"
    assert why in found.is_there


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: change_json(folder / "tokenizer.json", lambda one: one.update(padding={"length": 1})), "same"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "same"),
        (lambda folder: change_json(folder / "tokenizer.json", swap_tokens), "other"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}"), "other"),
        (lambda folder: (folder / "config.json").write_text("{}"), "other"),
    ],
)
def test_a_folder_is_compared_with_a_bucket_as_with_a_folder(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, found: str
) -> None:
    monkeypatch.setattr("lorapar.serving.base_identity.open_store", lambda _: open_store(tmp_path / "bucket"))
    copy_up(whole, open_store(tmp_path / "bucket"), "model own")
    folder = copy(whole, tmp_path / "folder")
    change(folder)
    assert compare(ModelConfig(name="s3://models/base", digest="1" * 64), folder).found == found


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_server_of_a_branch_refuses_a_version_of_an_earlier_commit(
    publish: Any,  # noqa: F811
    hub_cache: Any,
    tmp_path: Path,
    revision: str | None,
) -> None:
    hub_cache(OTHER_COMMIT)
    registry: Registry = publish("owner/base", "1" * 64, COMMIT)
    publish("owner/base", "2" * 64, OTHER_COMMIT)
    base = ServedBase("owner/base", model="owner/base", revision=revision)
    cache = AdapterCache(registry, tmp_path / "cache", base)
    assert cache.fetch("task", 2)
    with pytest.raises(
        IntegrityError, match=f"task@1: was trained on .*{COMMIT}.*another one .revision {OTHER_COMMIT}"
    ):
        cache.fetch("task", 1)


def test_a_hub_name_for_a_base_that_was_a_folder_is_compared_in_the_hubs_cache(
    publish: Any,  # noqa: F811
    hub_cache: Any,
    tmp_path: Path,
) -> None:
    own = hub_cache(COMMIT)
    trained_on = copy(own, tmp_path / "own")
    registry: Registry = publish(str(trained_on), digest_of_folder(trained_on))
    command = server_command(registry, ["task"], model=Path("owner/base"))
    assert options(command.arguments)["--revision"] == COMMIT
    assert command.notes == ()
    served = ServedBase(str(trained_on), model="owner/base")
    assert AdapterCache(registry, tmp_path / "cache", served).fetch("task", 1)

    hub_cache(OTHER_COMMIT, "WEIGHTS")
    with pytest.raises(IntegrityError, match="holds another model"):
        server_command(registry, ["task"], model=Path("owner/base"))
    served = ServedBase(str(trained_on), model="owner/base")
    with pytest.raises(IntegrityError, match="this server has another one"):
        AdapterCache(registry, tmp_path / "elsewhere", served).fetch("task", 1)


def test_the_base_by_its_own_hub_name_is_served_at_the_commit_that_was_trained_on(publish: Any) -> None:  # noqa: F811
    registry: Registry = publish("owner/base", "1" * 64, COMMIT)
    given = server_command(registry, ["task"], model=Path("owner/base"))
    assert given == server_command(registry, ["task"])
    assert options(given.arguments)["--revision"] == COMMIT


class Buckets:
    """Folders in the place of buckets: `s3://models/NAME` is a folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        patch.setattr("lorapar.serving.base_address.open_store", self.open)

    def open(self, address: str) -> Any:
        return open_store(self.root / address.removeprefix("s3://").rstrip("/"))


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Buckets:
    return Buckets(tmp_path / "buckets", monkeypatch)


def test_a_base_in_a_bucket_is_compared_with_what_lies_there_now(buckets: Buckets, tmp_path: Path) -> None:
    copy_up(model(tmp_path / "own", "weights"), buckets.open("s3://models/base"), "model own")
    base = ModelConfig(name="s3://models/base", digest=find_tree(buckets.open("s3://models/base")).digest)
    for same in ("s3://models/base", "s3://models/base/"):
        assert compare_address(base, same).found == "same"
    copy_up(model(tmp_path / "other", "WEIGHTS"), buckets.open("s3://models/other"), "model other")
    assert compare_address(base, "s3://models/other").found == "other"
    shutil.rmtree(tmp_path / "buckets" / "models" / "base")
    model(tmp_path / "buckets" / "models" / "base", "WEIGHTS")  # by another tool, without a manifest
    assert compare_address(base, "s3://models/base").found == "other"
    assert compare_address(base, "s3://models/nothing").found == "unknown"


@pytest.mark.parametrize(
    ("uri", "found", "why"),
    [
        (f"hf://owner/base:{COMMIT}", "same", ""),
        (f"hf://owner/base:{OTHER_COMMIT}", "other", OTHER_COMMIT),
        ("hf://owner/base", "unknown", f"changes with its branch; add :{COMMIT}"),
        ("hf://owner/base:main", "unknown", f"changes with its branch; add :{COMMIT}"),
        (f"hf://owner/quantised:{OTHER_COMMIT}", "unknown", "another name on the hub"),
        ("pvc://claim/base", "unknown", "look into pvc://"),
        ("s3://models/mirror", "same", ""),
        ("s3://models/later", "other", OTHER_COMMIT),
    ],
)
def test_a_base_of_the_hub_is_known_by_its_commit(
    buckets: Buckets, tmp_path: Path, uri: str, found: str, why: str
) -> None:
    for name, commit in (("mirror", COMMIT), ("later", OTHER_COMMIT)):
        made = model(tmp_path / name, name)
        copy_up(made, buckets.open(f"s3://models/{name}"), f"model owner/base@{commit}")
    compared = compare_address(ModelConfig(name="owner/base", revision=COMMIT, digest="1" * 64), uri)
    assert compared.found == found
    assert why in compared.is_there


def test_kserve_is_not_sent_to_another_base(
    publish: Any,  # noqa: F811
    buckets: Buckets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_up(model(tmp_path / "own", "weights"), buckets.open("s3://models/base"), "model own")
    registry: Registry = publish("s3://models/base", "1" * 64)
    monkeypatch.setattr(Registry, "address", property(lambda self: "s3://bucket/registry"))
    asked = ["export", "--kserve", "task@1", "--registry", str(tmp_path / "registry")]
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, IntegrityError)
    assert refused.exception.exit_code == ExitCode.INTEGRITY
    assert "s3://models/base holds another one" in str(refused.exception)
    meant = CliRunner().invoke(app, [*asked, "--other-base"])
    assert meant.exit_code == 0
    assert "uri: s3://models/base" in meant.output
    told = CliRunner().invoke(app, [*asked, "--base", "pvc://claim/base"])
    assert told.exit_code == 0
    assert "pvc://claim/base could not be compared" in told.stderr
    assert json.dumps("s3://models/base")[1:-1] in told.output
    assert registry.versions("task")
