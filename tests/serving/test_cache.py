"""Downloaded versions: whole and verified, or not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.registry.signature import TRUSTED_KEYS, sign_version
from lorapar.serving import AdapterCache, server_command
from lorapar.serving.base_identity import ServedBase

from .conftest import BASE, adapter_files


@pytest.fixture
def cache(registry: Registry, tmp_path: Path) -> AdapterCache:
    return AdapterCache(registry, tmp_path / "cache", ServedBase(BASE))


def weights(folder: Path) -> str:
    return (folder / "adapter_model.safetensors").read_text(encoding="utf-8")


def test_version_is_fetched_once_and_then_found(cache: AdapterCache, registry: Registry) -> None:
    folder = cache.fetch("task", 1)
    for entry in list(registry.store.list("adapters/")):
        registry.store.delete(entry.key)
    assert cache.fetch("task", 1) == folder
    assert weights(folder) == "weights 1"


def test_damaged_copy_is_fetched_again(cache: AdapterCache) -> None:
    folder = cache.fetch("task", 1)
    (folder / "adapter_model.safetensors").write_text("weights X", encoding="utf-8")
    assert weights(cache.fetch("task", 1)) == "weights 1"


def test_copy_whose_manifest_is_no_text_is_fetched_again(cache: AdapterCache) -> None:
    manifest = cache.fetch("task", 1) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"adapter", b"adapt\xffr"))
    assert weights(cache.fetch("task", 1)) == "weights 1"


def test_copy_that_no_trusted_key_has_signed_is_not_used(
    cache: AdapterCache, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    folder = cache.fetch("task", 1)  # before anybody asked for keys
    monkeypatch.setenv(TRUSTED_KEYS, str(public))
    with pytest.raises(IntegrityError, match="task@1 is not signed by a key of"):
        cache.fetch("task", 1)
    sign_version(registry.store, registry.resolve("task@1"), private)
    assert cache.fetch("task", 1) == folder


def test_damaged_object_leaves_nothing_behind(cache: AdapterCache, registry: Registry) -> None:
    registry.store.write("adapters/task/2/adapter_model.safetensors", b"weights X")
    with pytest.raises(IntegrityError, match=r"adapters/task/2/adapter_model\.safetensors"):
        cache.fetch("task", 2)
    assert [path.name for path in cache.folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_content_that_the_alias_does_not_name_is_refused(cache: AdapterCache, registry: Registry) -> None:
    right = registry.resolve("task@1").digest
    assert cache.fetch("task", 1, digest=right)
    with pytest.raises(IntegrityError, match="not the alias's"):
        cache.fetch("task", 1, digest="0" * 64)


def test_adapter_of_another_base_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"made for the base model 'owner/base', this server has 'owner/other'"):
        AdapterCache(registry, tmp_path / "cache", ServedBase("owner/other")).fetch("task", 1)


def test_pruning_keeps_what_is_used_and_the_latest_others(cache: AdapterCache) -> None:
    for number in (1, 2):
        folder = cache.fetch("task", number)
        os.utime(folder, (number, number))
    assert cache.prune("task", frozenset(), spare=1) == [1]
    assert cache.prune("task", frozenset({2}), spare=0) == []
    assert cache.prune("task", frozenset(), spare=0) == [2]


@pytest.mark.parametrize("config", [{"peft_type": "PROMPT_TUNING"}, {"peft_type": "LORA", "r": 8, "use_dora": True}])
def test_what_vllm_does_not_serve_is_reported_in_one_line(registry: Registry, tmp_path: Path, config) -> None:
    folder = adapter_files(tmp_path / "made3", "weights 3")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": BASE})
    registry.publish("task", folder)
    registry.set_alias("task", "production", 3)
    message = r"task@3 is of the kind (prompt|dora), and vLLM serves plain LoRA only"
    with pytest.raises(BadInputError, match=message):
        AdapterCache(registry, tmp_path / "cache", ServedBase(BASE)).fetch("task", 3)
    with pytest.raises(BadInputError, match=message):
        server_command(registry, ["task"])
