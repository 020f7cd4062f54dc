"""Versions registered with a Kubeflow Model Registry that holds every request against the API's own types.

The versions lie in a folder that calls itself a bucket; tests/integration/registry registers from a real S3 server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorapar.errors import BadInputError, IntegrityError, UnreachableError
from lorapar.redaction import BLANK, redact
from lorapar.registry import Registry
from lorapar.registry.model_registry import register_version
from lorapar.registry.model_registry_client import API_VERSIONS, TOKEN_FILE
from lorapar.registry.model_registry_client import TOKEN as TOKEN_VARIABLE
from lorapar.store import open_store
from lorapar.store.local import LocalStore
from tests.registry.model_registry_server import TOKEN, ModelRegistryServer

BUCKET = "s3://bucket/lorapar"
LINEAGE = {
    "base": {"name": "owner/base", "revision": "c" * 40, "digest": "b" * 64, "dtype": "bfloat16"},
    "serving": {"rank": 8, "max_lora_rank": 8},
}


class BucketInAFolder(LocalStore):
    """A folder that says it is a bucket."""

    @property
    def address(self) -> str:
        return BUCKET


@pytest.fixture
def server(monkeypatch) -> Iterator[ModelRegistryServer]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with ModelRegistryServer() as running:
        yield running


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Two versions of `maths`, in a folder whose address is a bucket's."""
    opened = Registry(BucketInAFolder(tmp_path / "registry"))
    for number in (1, 2):
        publish(opened, tmp_path / f"package{number}", f"weights {number}")
    return opened


def publish(registry: Registry, folder: Path, weights: str) -> None:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text(weights)
    (folder / "lineage.json").write_text(json.dumps(LINEAGE))
    registry.publish("maths", folder)


def properties(server: ModelRegistryServer, name: str = "1") -> dict[str, str]:
    """Custom properties of a model version, as values."""
    version = next(one for one in server.versions.values() if one.name == name)
    found = version.to_dict()["customProperties"]
    return {key: value.get("string_value", value.get("int_value")) for key, value in found.items()}


@pytest.mark.parametrize("api", API_VERSIONS)
def test_a_version_is_a_model_version_with_its_files_address(registry, monkeypatch, api) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with ModelRegistryServer(api) as server:
        done = register_version(registry, "maths@1", f"{server.address}/")
    assert done.new
    assert [(one.id, one.name) for one in server.models.values()] == [(done.model_id, "maths")]
    version = server.versions[done.version_id]
    assert (version.name, version.registered_model_id) == ("1", done.model_id)
    assert version.author == registry.claim(done.version).by
    assert properties(server) == {
        "digest": registry.resolve("maths@1").digest,
        "verdict": "none",
        "base_model": "owner/base",
        "base_model_revision": "c" * 40,
        "base_model_digest": "b" * 64,
        "lineage": f"{BUCKET}/adapters/maths/1/lineage.json",
        "lora_rank": "8",
        "vllm_max_lora_rank": "8",
    }
    ((parent, artifact),) = server.artifacts.values()
    assert (parent, artifact.uri) == (done.version_id, f"{BUCKET}/adapters/maths/1/")
    assert (artifact.artifact_type, artifact.model_format_name) == ("model-artifact", "peft")


def test_again_is_found_and_the_next_version_joins_the_same_model(registry, server) -> None:
    first = register_version(registry, "maths@1", server.address)
    server.requests.clear()
    again = register_version(registry, "maths@1", server.address)
    assert (again.version_id, again.new) == (first.version_id, False)
    assert server.writes() == []
    assert register_version(registry, "maths@2", server.address).model_id == first.model_id
    assert (len(server.models), len(server.versions), len(server.artifacts)) == (1, 2, 2)


def test_of_many_at_once_one_makes_it_and_all_find_it(registry, server) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: register_version(registry, "maths@1", server.address), range(8)))
    assert len({one.version_id for one in done}) == 1
    assert (len(server.models), len(server.versions), len(server.artifacts)) == (1, 1, 1)


def test_a_verdict_that_came_later_is_brought_in_and_what_others_wrote_stays(registry, server) -> None:
    done = register_version(registry, "maths@1", server.address)
    strange = {"metadataType": "MetadataStringValue", "string_value": "mine"}
    kept = server.versions[done.version_id].to_dict()
    kept["customProperties"]["by hand"] = strange
    server.versions[done.version_id] = type(server.versions[done.version_id]).from_dict(kept)
    registry.add_verdict(done.version, {"better": True, "incumbent": None, "reasons": ["it is"]})
    register_version(registry, "maths@1", server.address)
    assert (properties(server)["verdict"], properties(server)["by hand"]) == ("better than the base", "mine")


def test_a_registration_that_broke_off_is_finished(registry, server) -> None:
    server.failing["POST /api/model_registry/v1/model_versions/"] = 503
    with pytest.raises(UnreachableError, match="answered 503: planted"):
        register_version(registry, "maths@1", server.address)
    assert (len(server.versions), len(server.artifacts)) == (1, 0)
    server.failing.clear()
    assert not register_version(registry, "maths@1", server.address).new
    assert (len(server.versions), len(server.artifacts)) == (1, 1)


def test_another_adapter_by_that_name_is_left_alone(registry, server, tmp_path) -> None:
    register_version(registry, "maths@1", server.address)
    other = Registry(BucketInAFolder(tmp_path / "other"))
    publish(other, tmp_path / "stranger", "other weights")
    server.requests.clear()
    with pytest.raises(BadInputError, match=r"maths has a version 1 there already, with the digest .*nothing was"):
        register_version(other, "maths@1", server.address)
    assert server.writes() == []


def test_folders_and_damaged_versions_reach_nobody(registry, server, tmp_path) -> None:
    with pytest.raises(BadInputError, match="only versions in a bucket can be registered"):
        register_version(Registry(open_store(tmp_path / "registry")), "maths@1", server.address)
    (tmp_path / "registry" / "adapters" / "maths" / "1" / "adapter_model.safetensors").write_text("cut")
    with pytest.raises(IntegrityError, match="maths@1 cannot be used"):
        register_version(registry, "maths@1", server.address)
    assert server.requests == []


def test_the_token_comes_from_a_mounted_file_too_and_is_never_shown(registry, server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(UnreachableError, match=rf"refused \(401\); set {TOKEN_VARIABLE}"):
        register_version(registry, "maths@1", server.address)
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    assert register_version(registry, "maths@1", server.address).new
    assert redact(f"it said {TOKEN}") == f"it said {BLANK}"
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "nothing"))
    with pytest.raises(BadInputError, match=f"{TOKEN_FILE}: .*nothing cannot be read"):
        register_version(registry, "maths@1", server.address)


@pytest.mark.parametrize(
    "address",
    ["", "registry:8080", "ftp://registry", "http://", "http://user:word@registry", "http://r:x", "https://r/?a=b"],
)
def test_addresses_that_are_none(registry, address) -> None:
    with pytest.raises(BadInputError, match="--registry-url: not the address of a server"):
        register_version(registry, "maths@1", address)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (403, UnreachableError, r"refused \(403\); set"),
        (500, UnreachableError, "answered 500: planted"),
        (422, BadInputError, "answered 422: planted"),
        (404, BadInputError, "no Kubeflow Model Registry is there"),
    ],
)
def test_a_no_is_one_line(registry, server, status, error, message) -> None:
    server.failing["registered_models"] = status
    with pytest.raises(error, match=message) as answer:
        register_version(registry, "maths@1", server.address)
    assert "\n" not in str(answer.value)


@pytest.mark.parametrize("answer", [b"<html>a login page</html>", b'{"id": "../../x", "name": "maths"}', b"[]"])
def test_something_else_that_answers_is_reported(registry, server, answer) -> None:
    server.raw = answer
    with pytest.raises(UnreachableError, match="does not answer as Kubeflow Model Registry does"):
        register_version(registry, "maths@1", server.address)
    assert server.writes() == []


def test_nobody_there(registry) -> None:
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9: .* did not answer \(ConnectError\)"):
        register_version(registry, "maths@1", "http://127.0.0.1:9")
