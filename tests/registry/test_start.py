"""The adapter that a run goes on from: which one a name means, and what is refused before anything starts."""

from __future__ import annotations

import json
import shutil

import pytest

from lorapar.basemodel import resolve_model
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import write_json
from lorapar.registry import Publication, Registry, make_package
from lorapar.registry.lineage import LINEAGE_FILE
from lorapar.registry.package import CONFIG_FILE, WEIGHTS_FILE
from lorapar.registry.start import (
    Kind,
    fetch_start,
    kind_of,
    other_template,
    require_same_weights,
    resolve_start,
    trained_rank,
)
from lorapar.store import open_store, s3_headers
from tests.store.s3_in_memory import S3InMemory


@pytest.fixture(scope="module")
def package(origins, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "made"
    model = resolve_model(base.model_copy(update={"digest": None}))
    make_package(Publication("mine", model, origins, {"adapter": {"rank": 4}}, {"version": "1"}), folder)
    return folder


@pytest.fixture
def registry(package, tmp_path) -> Registry:
    """Version 1, which is in production, and a version 2."""
    registry = Registry(open_store(str(tmp_path / "registry")))
    first = registry.publish("mine", package)
    other = shutil.copytree(package, tmp_path / "other")
    (other / "README.md").write_text("another one")
    registry.publish("mine", other)
    registry.set_alias("mine", "production", first.number)
    return registry


def on_tiny(adapter: str, **more) -> ModelConfig:
    return resolve_model(
        ModelConfig.model_validate({"name": "builtin:tiny", "dtype": "float32", "adapter": adapter, **more})
    )


def edited(folder, file: str, **values) -> None:
    content = json.loads((folder / file).read_text())
    write_json(folder / file, {**content, **values})


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        *(("mine", Kind.REGISTRY), ("mine@3", Kind.REGISTRY), ("mine@production", Kind.REGISTRY)),
        *(("./mine", Kind.FOLDER), ("~/mine", Kind.FOLDER), ("/data/mine", Kind.FOLDER)),
        ("s3://bucket/mine", Kind.BUCKET),
        *(("someone/mine", Kind.HUB), ("someone/mine@v2", Kind.HUB)),
    ],
)
def test_a_name_says_where_the_adapter_lies(adapter, kind) -> None:
    assert kind_of(adapter) is kind


@pytest.mark.parametrize(("adapter", "number"), [("mine", 1), ("mine@production", 1), ("mine@2", 2)])
def test_a_name_of_the_registry_becomes_a_version_with_its_digest(registry, tmp_path, adapter, number) -> None:
    resolved = resolve_start(on_tiny(adapter), registry.address)
    source = resolved.adapter_source
    assert (source.version, source.rank, resolved.adapter_text) == (number, 8, f"mine@{number}")
    assert source.digest == registry.resolve(f"mine@{number}").digest
    registry.set_alias("mine", "production", 2)
    assert resolve_start(resolved, None) == resolved, "what was resolved once stays"
    folder = fetch_start(resolved, tmp_path / "start")
    assert (folder / "adapter_model.safetensors").is_file()
    assert trained_rank(folder, 8) == 4, "the half that only holds the start back was not trained"


def test_a_folder_of_any_peft_user_is_an_adapter(package, tmp_path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(package / file, folder)
    resolved = resolve_start(on_tiny(str(folder)), None)
    assert resolved.adapter_source.rank == 8
    assert fetch_start(resolved, tmp_path / "unused") == folder
    assert trained_rank(folder, 8) == 8
    edited(folder, "adapter_config.json", lora_alpha=3)
    with pytest.raises(IntegrityError, match="has changed since the run was planned"):
        fetch_start(resolved, tmp_path / "unused")


def test_of_a_packed_adapter_all_was_trained_whatever_the_run_trained(package, tmp_path) -> None:
    folder = shutil.copytree(package, tmp_path / "packed")
    edited(folder, LINEAGE_FILE, compacted={"version": "mine@1", "rank": 8})
    assert trained_rank(folder, 6) == 6
    edited(folder, LINEAGE_FILE, compacted=None)
    assert trained_rank(folder, 6) == 4


def test_a_repository_of_the_hub_is_pinned_to_its_commit(package, tmp_path, monkeypatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    made = tmp_path / "hub" / "models--someone--mine" / "snapshots" / commit
    shutil.copytree(package, made)
    (made.parents[1] / "refs").mkdir()
    (made.parents[1] / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    resolved = resolve_start(on_tiny("someone/mine@v2"), None)
    assert (resolved.adapter_source.revision, resolved.adapter_text) == (commit, f"someone/mine@{commit}")
    assert fetch_start(resolved, tmp_path / "unused") == made


@pytest.fixture
def server(monkeypatch):
    """An empty bucket, and nothing in the environment but the way to it."""
    for name in s3_headers.VARIABLES:
        monkeypatch.setenv(name, "")
    with S3InMemory() as made:
        for name, value in {
            "AWS_ENDPOINT_URL": made.endpoint,
            "AWS_ACCESS_KEY_ID": "KEYOFTHETESTS001",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield made


ADDRESS = "s3://bucket/adapters/mine"


def test_an_adapter_in_a_bucket_is_pinned_by_its_content(server, package, tmp_path) -> None:
    store = open_store(ADDRESS)
    for file in package.iterdir():
        store.write(file.name, file.read_bytes())
    resolved = resolve_start(on_tiny(ADDRESS), None)
    assert (resolved.adapter_source.rank, resolved.adapter_text) == (8, ADDRESS)
    fetched = fetch_start(resolved, tmp_path / "start")
    for file in (CONFIG_FILE, WEIGHTS_FILE, LINEAGE_FILE):
        assert (fetched / file).read_bytes() == (package / file).read_bytes()
    store.write(WEIGHTS_FILE, b"other weights")
    with pytest.raises(IntegrityError, match="has changed since the run was planned"):
        fetch_start(resolved, tmp_path / "again")


def test_what_an_address_lacks_is_named(server) -> None:
    with pytest.raises(BadInputError, match=rf"^model\.adapter: there is nothing at {ADDRESS}; fix the address"):
        resolve_start(on_tiny(ADDRESS), None)
    open_store(ADDRESS).write(CONFIG_FILE, b"{}")
    with pytest.raises(BadInputError, match=rf"^model\.adapter: {ADDRESS} has no {WEIGHTS_FILE}"):
        resolve_start(on_tiny(ADDRESS), None)


def test_a_folder_without_an_adapter_is_no_name(registry, package, tmp_path, monkeypatch) -> None:
    """What lies below it is offered, as where a run folder is named; a name in the registry still wins."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(package, tmp_path / "run" / "nodes" / "publish" / "adapter")
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    inside = r"\(but run/nodes/publish/adapter is\)"
    for address in (None, registry.address):
        with pytest.raises(BadInputError, match=rf"^model\.adapter: .*run has no {CONFIG_FILE}, .*{inside}"):
            resolve_start(on_tiny("run"), address)
        with pytest.raises(BadInputError, match=rf"^model\.adapter: runs/old has no {CONFIG_FILE}.*; name a folder"):
            resolve_start(on_tiny("runs/old"), address)
    assert resolve_start(on_tiny("mine"), registry.address).adapter_source.version == 1
    assert resolve_start(on_tiny("run/nodes/publish/adapter"), None).adapter_source.rank == 8


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("mien", "mien@production: not in the registry .* it has no adapter mien .did you mean 'mine'"),
        ("mine@7", "mine@7: not in the registry .* it has versions 1, 2"),
        ("mine@prod", "mine@prod: no such alias"),
        ("./nowhere", r"\./nowhere is not a folder; name a folder"),
    ],
)
def test_what_is_not_there_is_named(registry, adapter, message) -> None:
    with pytest.raises(BadInputError, match=rf"^model\.adapter: .*{message}"):
        resolve_start(on_tiny(adapter), registry.address)


def test_a_name_without_a_registry_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"registry\.address is not set"):
        resolve_start(on_tiny("mine@1"), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "has use_dora in its adapter_config.json"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save"),
        ({"bias": "all"}, "has bias all"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights pissa_niter_4 \(which moves the base weights\)"),
        ({"peft_type": "IA3"}, "has the type IA3"),
        ({"r": None}, "lacks r or lora_alpha"),
        ({"lora_alpha": 0}, "has lora_alpha 0 in its adapter_config.json, so it does nothing"),
    ],
)
def test_what_is_no_plain_lora_is_refused_before_anything_starts(package, tmp_path, values, message) -> None:
    folder = shutil.copytree(package, tmp_path / "odd")
    edited(folder, "adapter_config.json", **values)
    with pytest.raises(BadInputError, match=message):
        resolve_start(on_tiny(str(folder)), None)


def test_an_adapter_of_another_base_is_refused(package, tmp_path) -> None:
    folder = shutil.copytree(package, tmp_path / "odd")
    base = {"name": "someone/else", "revision": "a" * 40, "digest": "b" * 64, "dtype": "float32"}
    edited(folder, "lineage.json", base=base)
    with pytest.raises(
        IntegrityError, match=f"made for the base model someone/else at {'a' * 40}, which is not builtin"
    ):
        resolve_start(on_tiny(str(folder)), None)


def test_weights_tell_apart_what_digests_cannot(package, tmp_path) -> None:
    folder = shutil.copytree(package, tmp_path / "odd")
    edited(folder, "lineage.json", training={"base_weights_sha256": "c" * 64})
    model = on_tiny(str(folder))
    require_same_weights(model, folder, "c" * 64)
    with pytest.raises(IntegrityError, match="was made for the base model builtin:tiny"):
        require_same_weights(model, folder, "d" * 64)
    require_same_weights(model.model_copy(update={"dtype": "bfloat16"}), folder, "d" * 64)


@pytest.mark.parametrize(
    ("files", "changed", "lineage", "line"),
    [
        ({}, {}, True, None),
        (
            {"chat_template.jinja": "{{ 'own' }}\n"},
            {},
            True,
            "comes with a chat template of its own, and this run asks",
        ),
        ({"chat_template.jinja": "{{ 'asked' }}\n"}, {"chat_template": "{{ 'asked' }}"}, True, None),
        ({"tokenizer_config.json": '{"chat_template": "{{ 1 }}"}'}, {}, False, "comes with a chat template of its own"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "default"}]}'}, {}, False, None),
        ({"tokenizer_config.json": "[]"}, {}, False, None),
        ({}, {"chat_template": "{{ 'asked' }}"}, True, "was trained with the base model's own chat template"),
        ({}, {"chat_template": "{{ 'asked' }}"}, False, None),
    ],
)
def test_an_adapter_of_another_chat_template_is_reported(tmp_path, files, changed, lineage, line) -> None:
    for name, text in {**files, **({"lineage.json": "{}"} if lineage else {})}.items():
        (tmp_path / name).write_text(text)
    found = other_template(on_tiny(str(tmp_path), **changed), tmp_path, "{%- set a = 1 -%}{{ 'asked' }}")
    assert (found is None) is (line is None)
    assert (line or "") in (found or "")


def test_pinned_content_that_is_another_now_is_refused(registry) -> None:
    model = on_tiny("mine@1", adapter_source={"version": 1, "digest": "e" * 64})
    with pytest.raises(IntegrityError, match="has another content than these settings name"):
        resolve_start(model, registry.address)
