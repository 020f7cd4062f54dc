"""The registry on a real S3 server: races, a publisher killed half-way, and what each role may do."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lorapar.errors import BadInputError, ExitCode, StaleError, UnreachableError
from lorapar.registry import Registry
from lorapar.registry.check import check
from lorapar.registry.collect import Retention, collect, collectable
from lorapar.registry.overview import version_rows
from lorapar.registry.why import why
from lorapar.store import open_store
from tests.integration.conftest import use_identity
from tests.registry.model_registry_server import TOKEN, ModelRegistryServer
from tests.registry.races import check_race, race

WEIGHTS = "adapter_model.safetensors"
KILLED = """
import sys, time
from pathlib import Path
from lorapar.registry import Registry
from lorapar.store import open_store
store = open_store(sys.argv[1])
real = store.upload_all
def upload_all(transfers):
    real([one for one in transfers if one.key.endswith("safetensors")])
    print("uploaded", flush=True)
    time.sleep(60)
store.upload_all = upload_all
Registry(store).publish("maths", Path(sys.argv[2]))
"""


def package(folder, content: str):
    """Two files, one of some megabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(content.encode() * 400_000)
    (folder / "zz_last.json").write_text("{}")
    return folder


@pytest.fixture
def registry(s3_address) -> Registry:
    return Registry(open_store(s3_address))


def test_publishers_promoters_and_readers_at_once_lose_nothing(registry, s3_address, tmp_path) -> None:
    check_race(registry, race(s3_address, tmp_path, rounds=10), tmp_path)


def test_a_killed_publisher_leaves_nothing_to_see_and_is_finished_by_the_next(registry, s3_address, tmp_path) -> None:
    folder = package(tmp_path / "p", "maths")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, s3_address, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "uploaded\n"
    process.kill()
    process.wait()
    assert registry.store.exists(f"adapters/maths/1/{WEIGHTS}")
    assert registry.versions("maths") == []
    with pytest.raises(BadInputError, match="maths@1"):
        registry.resolve("maths@1")
    other = package(tmp_path / "q", "other")
    assert registry.publish("maths", other).number == 2
    assert registry.publish("maths", folder).number == 1
    assert [found.fault for found in check(registry, None)] == [None, None]


def test_a_reader_can_look_and_pull_and_change_nothing(registry, s3_server, s3_address, tmp_path, monkeypatch) -> None:
    registry.publish("maths", package(tmp_path / "p", "maths"))
    registry.move_alias("maths", "production", 1, expected=None)
    use_identity(monkeypatch, s3_server.environment("reader"))
    reader = Registry(open_store(s3_address))
    assert reader.pull("maths", tmp_path / "pulled").number == 1
    assert reader.names() == ["maths"]
    assert [row.aliases for row in version_rows(reader, "maths")] == [("production",)]
    assert "maths@production is version 1" in why(reader, "maths")
    assert [found.fault for found in check(reader, None)] == [None]
    before = {entry.key for entry in registry.store.list()}
    version = reader.resolve("maths@1")
    for change in (
        lambda: reader.publish("maths", package(tmp_path / "q", "other")),
        lambda: reader.set_alias("maths", "candidate", 1),
        lambda: reader.set_share("maths", "production", 1, 10.0),
        lambda: reader.add_verdict(version, {"better": True}),
        lambda: collect(reader, version),
    ):
        with pytest.raises(UnreachableError, match="access denied"):
            change()
    assert {entry.key for entry in registry.store.list()} == before
    assert registry.resolve("maths").number == 1


def test_a_reader_registers_a_version_with_kubeflow(
    registry, s3_server, s3_address, cli, tmp_path, monkeypatch
) -> None:
    version = registry.publish("maths", package(tmp_path / "p", "maths"))
    use_identity(monkeypatch, s3_server.environment("reader"))
    monkeypatch.setenv("LORAPAR_MODEL_REGISTRY_TOKEN", TOKEN)
    with ModelRegistryServer() as server:
        command = ("adapters", "register", "maths@1", "--registry", s3_address, "--registry-url", server.address)
        ended = [cli(*command) for _ in range(2)]
        monkeypatch.setenv("LORAPAR_MODEL_REGISTRY_TOKEN", "a-token-that-is-wrong")
        refused = cli(*command)
    assert [one.returncode for one in ended] == [ExitCode.OK] * 2, ended[0].stderr
    assert ended[0].stdout == "maths@1 is registered: registered model 1, model version 2\n"
    assert ended[1].stdout == "maths@1 is registered already: registered model 1, model version 2\n"
    ((_, artifact),) = server.artifacts.values()
    assert artifact.uri == f"{s3_address}/adapters/maths/1/"
    assert server.versions["2"].to_dict()["customProperties"]["digest"]["string_value"] == version.digest
    assert (refused.returncode, refused.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert refused.stderr.startswith(f"lorapar: {server.address}: Kubeflow Model Registry refused (401)")
    assert "a-token-that-is-wrong" not in refused.stderr


def test_a_writer_publishes_judges_and_promotes(registry, s3_server, s3_address, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(type(registry.store), "delete", _denied)
    use_identity(monkeypatch, s3_server.environment("writer"))
    writer = Registry(open_store(s3_address))
    for number in (1, 2):
        assert writer.publish("maths", package(tmp_path / f"p{number}", f"w{number}")).number == number
        writer.set_alias("maths", "candidate", number)
    writer.add_verdict(writer.resolve("maths@2"), {"better": True})
    writer.move_alias("maths", "production", 1, expected=None)
    writer.move_alias("maths", "production", 2, expected=1)
    writer.move_alias("maths", "production", 1, expected=2, rollback=True)
    with pytest.raises(StaleError):
        writer.move_alias("maths", "production", 2, expected=2)
    assert writer.set_share("maths", "candidate", 2, 5.0).share_percent == 5.0


def _denied(_store: object, key: str) -> None:
    """What a server says that tells deleting from writing; this one counts both as writing."""
    assert key.startswith(".lorapar/try-"), "only collecting may need the right to delete"
    raise UnreachableError(f"{key}: access denied")


def test_a_stranger_gets_one_line(s3_server, s3_address, tmp_path, monkeypatch) -> None:
    use_identity(monkeypatch, s3_server.environment("stranger"))
    stranger = Registry(open_store(s3_address))
    with pytest.raises(UnreachableError, match="access denied") as caught:
        stranger.publish("maths", package(tmp_path / "p", "maths"))
    assert "\n" not in str(caught.value)
    assert s3_server.environment("stranger")["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_what_is_old_and_unnamed_is_collected(registry, tmp_path) -> None:
    for number in (1, 2, 3):
        registry.publish("maths", package(tmp_path / f"p{number}", f"w{number}"))
    registry.move_alias("maths", "production", 2, expected=None)
    time.sleep(1.1)  # the server tells whole seconds
    (old,) = collectable(registry, "maths", Retention(last=1, grace_seconds=0.0))
    assert (old.number, collect(registry, old)) == (1, True)
    assert registry.versions("maths") == [2, 3]
    assert [entry.key for entry in registry.store.list("adapters/maths/1/")] == ["adapters/maths/1/claim.json"]
    assert registry.publish("maths", tmp_path / "p1").number == 4
