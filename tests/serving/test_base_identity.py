"""An adapter meets only the base it was trained on, wherever that lies."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lorapar.basemodel.resolve import resolve_model
from lorapar.cli import app
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, ExitCode, IntegrityError
from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.serving import AdapterCache, ServingSettings, kserve_manifest, server_command
from lorapar.serving.base_identity import ANY, ServedBase, compare
from lorapar.serving.vllm_plugin import RegistryResolver
from lorapar.store import open_store
from lorapar.store.copy import copy_up

from .conftest import adapter_files
from .test_command import InS3, options

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


def model(folder: Path, weights: str) -> Path:
    """A folder that looks like a model; nothing here loads it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def digest_of_folder(folder: Path) -> str:
    return str(resolve_model(ModelConfig(name=str(folder))).digest)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The base that adapters are trained on."""
    return model(tmp_path / "own", "weights")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Other weights of the same shape."""
    return model(tmp_path / "other", "WEIGHTS")


@pytest.fixture
def publish(tmp_path: Path) -> Any:
    """Publish versions of `task` whose lineage names a base; the last one is in production."""
    registry = Registry(open_store(tmp_path / "registry"))

    def make(name: str, digest: str | None, revision: str | None = None) -> Registry:
        number = len(registry.versions("task")) + 1
        folder = adapter_files(tmp_path / f"made{number}", f"weights {number}", base=name)
        write_json(folder / "lineage.json", {"base": {"name": name, "revision": revision, "digest": digest}})
        registry.publish("task", folder)
        registry.set_alias("task", "production", number)
        return registry

    return make


def test_folder_with_other_weights_is_refused_with_both_digests(publish: Any, own: Path, other: Path) -> None:
    registry = publish(str(own), digest_of_folder(own))
    shown = CliRunner().invoke(app, ["serve", "task", "--registry", registry.address, "--model", str(other)])
    assert isinstance(shown.exception, IntegrityError)
    assert shown.exception.exit_code == ExitCode.INTEGRITY == 6
    assert digest_of_folder(own) in str(shown.exception)
    assert digest_of_folder(other) in str(shown.exception)
    assert "--other-base" in str(shown.exception)


def test_the_same_files_elsewhere_are_served_and_later_versions_compared(
    publish: Any, own: Path, tmp_path: Path
) -> None:
    digest = digest_of_folder(own)
    registry = publish(str(own), digest)
    command = server_command(registry, ["task"], model=model(tmp_path / "elsewhere", "weights"))
    assert command.environment["LORAPAR_SERVING_BASE_DIGEST"] == digest
    assert command.notes == ()


def test_an_option_overrides_and_the_printed_command_says_so(publish: Any, own: Path, other: Path) -> None:
    registry = publish(str(own), digest_of_folder(own))
    arguments = ["serve", "task", "--registry", registry.address, "--model", str(other), "--other-base"]
    words = shlex.split(CliRunner().invoke(app, arguments).output.replace("\\\n", ""))
    assert f"LORAPAR_SERVING_BASE_DIGEST={ANY}" in words
    assert str(other) in words


def test_adapter_without_digest_is_served_over_any_folder(publish: Any, own: Path, other: Path) -> None:
    registry = publish(str(own), None)
    command = server_command(registry, ["task"], model=other)
    assert "LORAPAR_SERVING_BASE_DIGEST" not in command.environment


def test_base_that_changed_in_its_own_folder_is_refused(publish: Any, own: Path) -> None:
    registry = publish(str(own), digest_of_folder(own))
    (own / "model.safetensors").write_text("trained further")
    with pytest.raises(IntegrityError, match="holds another model"):
        server_command(registry, ["task"])


def test_adapters_of_two_commits_are_not_served_together(publish: Any) -> None:
    registry = publish("owner/base", "1" * 64, COMMIT)
    publish("owner/base", "2" * 64, OTHER_COMMIT)
    registry.set_alias("task", "old", 1)
    assert options(server_command(registry, ["task"]).arguments)["--revision"] == OTHER_COMMIT
    with pytest.raises(BadInputError, match=rf"different base models .*{COMMIT}.*{OTHER_COMMIT}|{OTHER_COMMIT}"):
        server_command(registry, ["task", "task@old"])


def test_version_of_a_quantised_base_is_reported(publish: Any, own: Path, tmp_path: Path) -> None:
    registry = publish(str(own), digest_of_folder(own))
    folder = adapter_files(tmp_path / "made", "weights of it", base=str(own))
    base = {"name": str(own), "revision": None, "digest": digest_of_folder(own), "quantization": "nf4, 4 bits"}
    write_json(folder / "lineage.json", {"base": base})
    registry.publish("task", folder)
    assert server_command(registry, ["task"]).notes == ()
    registry.set_alias("task", "production", 2)
    (note,) = server_command(registry, ["task"]).notes
    assert note.startswith("task@2 was trained and evaluated on its base held in nf4, 4 bits, and this server holds")


def test_candidate_for_another_commit_is_named(publish: Any) -> None:
    registry = publish("owner/base", "1" * 64, COMMIT)
    publish("owner/base", "2" * 64, OTHER_COMMIT)
    registry.set_alias("task", "production", 1)
    registry.set_alias("task", "candidate", 2)
    (note,) = server_command(registry, ["task"]).notes
    assert "candidate for another base model" in note


@pytest.mark.parametrize("option", ["--model ./x", "--model=./x", "--revision main"])
def test_base_is_not_replaced_behind_the_comparison(publish: Any, option: str) -> None:
    registry = publish("owner/base", "1" * 64, COMMIT)
    with pytest.raises(BadInputError, match="lorapar serve --model FOLDER"):
        server_command(registry, ["task"], extra=shlex.split(option))


@pytest.mark.parametrize(("commit", "found"), [(COMMIT, "same"), (OTHER_COMMIT, "other")])
def test_mirror_of_a_hub_model_tells_its_commit(own: Path, tmp_path: Path, commit: str, found: str) -> None:
    copy_up(own, open_store(tmp_path / "mirror"), f"model owner/base@{commit}")
    base = ModelConfig(name="owner/base", revision=COMMIT, digest="1" * 64)
    assert compare(base, tmp_path / "mirror").found == found


@pytest.mark.parametrize(("commit", "found"), [(COMMIT, "same"), (OTHER_COMMIT, "other")])
def test_hub_cache_tells_its_commit(tmp_path: Path, commit: str, found: str) -> None:
    folder = model(tmp_path / "models--owner--base" / "snapshots" / commit, "weights")
    assert compare(ModelConfig(name="owner/base", revision=COMMIT, digest="1" * 64), folder).found == found


def test_plain_copy_of_a_hub_model_cannot_be_recognised(own: Path) -> None:
    assert compare(ModelConfig(name="owner/base", revision=COMMIT, digest="1" * 64), own).found == "unknown"


def test_mirror_is_the_folder_it_was_made_from(own: Path, tmp_path: Path) -> None:
    copy_up(own, open_store(tmp_path / "mirror"), "model own")
    base = ModelConfig(name=str(own), digest=digest_of_folder(own))
    assert compare(base, tmp_path / "mirror").found == "same"


def test_a_readme_more_makes_no_other_model(own: Path, tmp_path: Path) -> None:
    base = ModelConfig(name=str(own), digest=digest_of_folder(own))
    copy = model(tmp_path / "copy", "weights")
    (copy / "README.md").write_text("a copy")
    assert compare(base, copy).found == "same"
    (copy / "config.json").write_text('{"rope_theta": 1}')
    assert compare(base, copy).found == "other"


def cached(registry: Registry, tmp_path: Path, base: ServedBase) -> AdapterCache:
    return AdapterCache(registry, tmp_path / "cache", base)


def test_running_server_refuses_a_version_of_another_base(publish: Any, own: Path, other: Path, tmp_path: Path) -> None:
    digest = digest_of_folder(own)
    registry = publish("base", digest)
    publish("base", digest_of_folder(other))
    for base in (ServedBase("base", digest), ServedBase("base", model=str(own))):
        cache = cached(registry, tmp_path, base)
        assert cache.fetch("task", 1)
        with pytest.raises(IntegrityError, match=r"task@2: was trained on the base model .* this server has another"):
            cache.fetch("task", 2)
    assert cached(registry, tmp_path, ServedBase("base", ANY, str(own))).fetch("task", 2)


def test_running_server_refuses_another_commit(publish: Any, tmp_path: Path) -> None:
    registry = publish("owner/base", "1" * 64, COMMIT)
    assert cached(registry, tmp_path, ServedBase("owner/base", revision=COMMIT)).fetch("task", 1)
    assert cached(registry, tmp_path, ServedBase("owner/base", revision="main")).fetch("task", 1), "not to be told"
    with pytest.raises(IntegrityError, match=f"revision {OTHER_COMMIT}"):
        cached(registry, tmp_path, ServedBase("owner/base", revision=OTHER_COMMIT)).fetch("task", 1)


def test_resolver_answers_no_version_of_another_base(
    publish: Any, own: Path, other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = publish("base", digest_of_folder(own))
    settings = ServingSettings(registry=registry.address, base_model="base", cache=tmp_path / "cache")
    assert asyncio.run(RegistryResolver(settings).resolve_lora(str(other), "task@1")) is None
    assert "task@1: was trained on the base model" in caplog.text


def test_pull_names_the_base(publish: Any, tmp_path: Path) -> None:
    registry = publish("owner/base", "1" * 64, COMMIT)
    shown = CliRunner().invoke(
        app, ["adapters", "pull", "task@1", str(tmp_path / "out"), "--registry", registry.address]
    )
    assert f"it fits only the base model 'owner/base@{COMMIT}' (digest {'1' * 64})" in shown.output


@pytest.mark.parametrize(
    ("name", "revision", "given", "uri"),
    [
        ("s3://models/base", None, None, "s3://models/base"),
        ("owner/base", COMMIT, None, f"hf://owner/base:{COMMIT}"),
        ("./model", None, "pvc://claim/base", "pvc://claim/base"),
        ("model", None, "s3://models/base", "s3://models/base"),
    ],
)
def test_kserve_fetches_the_base_from_where_it_lies(
    publish: Any, name: str, revision: str | None, given: str | None, uri: str
) -> None:
    registry = publish(name, "1" * 64, revision)
    manifest = kserve_manifest(InS3(registry.store), registry.resolve("task"), given)
    assert manifest["spec"]["model"]["uri"] == uri


@pytest.mark.parametrize("name", ["./model", "model", "builtin:tiny"])
def test_kserve_asks_where_a_folder_is(publish: Any, name: str) -> None:
    registry = publish(name, "1" * 64)
    with pytest.raises(BadInputError, match="--base pvc://CLAIM/PATH"):
        kserve_manifest(InS3(registry.store), registry.resolve("task"))
    with pytest.raises(BadInputError, match="--base claim/path: write pvc"):
        kserve_manifest(InS3(registry.store), registry.resolve("task"), "claim/path")


def tensors(folder: Path, files: dict[str, list[str]], **changed: float) -> Path:
    """A model folder with tensors a, b and c, shared out over files, as one of its savings may do it."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"hidden_size": 4, "transformers_version": str(len(files))})
    for file, names in files.items():
        save_file({name: np.full((2, 4), changed.get(name, 1.0), np.float16) for name in names}, folder / file)
    return folder


def test_the_same_tensors_in_other_files_are_the_same_base_where_both_are_here(publish: Any, tmp_path: Path) -> None:
    trained_on = tensors(tmp_path / "one", {"model.safetensors": ["a", "b", "c"]})
    parts = {"model-1-of-2.safetensors": ["c"], "model-2-of-2.safetensors": ["a", "b"]}
    resharded = tensors(tmp_path / "two", parts)
    registry = publish(str(trained_on), digest_of_folder(trained_on))
    assert server_command(registry, ["task"], model=resharded).notes == ()
    for number, other in enumerate(
        (
            tensors(tmp_path / "value", parts, b=2.0),
            tensors(tmp_path / "fewer", {"model.safetensors": ["a", "b"]}),
            tensors(tmp_path / "settings", parts),
        )
    ):
        if number == 2:
            write_json(other / "config.json", {"hidden_size": 8})
        with pytest.raises(IntegrityError, match=f"the folder '{other}' holds another model"):
            server_command(registry, ["task"], model=other)


def test_a_folder_of_the_servers_machine_is_compared_there(publish: Any, own: Path, other: Path) -> None:
    registry = publish(str(own), digest_of_folder(own))
    command = server_command(registry, ["task"], model=Path("/mnt/base"))
    assert "'/mnt/base' is not on this machine: where the server runs it is compared" in command.notes[0]
    assert "LORAPAR_SERVING_BASE_DIGEST" not in command.environment  # or the server would take it as compared
    asked = ["serve", "task", "--registry", registry.address, "--model", "/mnt/base", "--run"]
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, BadInputError)
    assert "--model: there is no folder '/mnt/base' on this machine" in str(refused.exception)
