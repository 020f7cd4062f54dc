"""Versions pushed by the hub's real client to a hub of these tests, which keeps what arrives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.testing
from huggingface_hub import constants

from lorapar.cli import app
from lorapar.errors import BadInputError, ExitCode, IntegrityError, UnreachableError
from lorapar.registry import Registry
from lorapar.registry.signature import TRUSTED_KEYS
from lorapar.store import open_store
from tests.registry.hub_server import TOKEN, HubServer

TO = "someone/maths-lora"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def hub(monkeypatch) -> Iterator[HubServer]:
    """A hub that the client in this process talks to, with a token that may write to it."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    """Two versions of `maths` that differ in their weights; the environment names the registry."""
    monkeypatch.setenv("LORAPAR_REGISTRY", str(tmp_path / "registry"))
    opened = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        folder = tmp_path / f"package{number}"
        (folder / "figures").mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(bytes([number]) * 300_000)
        (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# maths\n")
        (folder / "adapter_config.json").write_text("{}")
        (folder / "figures" / "reward.svg").write_text("<svg/>")
        opened.publish("maths", folder)
    return opened


def push(*arguments: str) -> str:
    """What the command prints, without breaks of lines; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, ["adapters", "push", *arguments], catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def published(registry: Registry, number: int) -> dict[str, bytes]:
    """Every file of a version, by its name in it."""
    folder = Path(registry.address) / "adapters" / "maths" / str(number)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "claim.json"}


def arrived(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    """Every file of a branch, but the one that the hub made."""
    return {k: v for k, v in (hub.repositories[TO].files(branch) or {}).items() if k != ".gitattributes"}


def test_what_arrives_is_what_was_published_byte_for_byte(hub, registry) -> None:
    assert f"maths@1 is at {hub.address}/{TO}/commit/" in push("maths@1", "--to", TO)
    assert arrived(hub) == published(registry, 1)
    assert not hub.repositories[TO].private
    digest = registry.resolve("maths@1").digest
    assert hub.repositories[TO].messages[-1] == f"maths@1 ({digest[:12]})"


def test_again_changes_nothing_and_another_version_changes_what_differs(hub, registry) -> None:
    push("maths@1", "--to", TO)
    hub.requests.clear()
    assert "maths@1 is there already, nothing was changed" in push("maths@1", "--to", TO)
    assert hub.writes() == []
    push("maths@2", "--to", TO)
    assert arrived(hub) == published(registry, 2)
    assert len(hub.large) == 2


def test_a_file_changed_on_the_hub_is_put_back_and_a_strange_one_stays(hub, registry) -> None:
    push("maths@1", "--to", TO)
    hub.repositories[TO].commit("main", {**arrived(hub), WEIGHTS: b"other", "LICENSE": b"mine"}, "by hand")
    push("maths@1", "--to", TO)
    assert arrived(hub) == {**published(registry, 1), "LICENSE": b"mine"}


def test_a_branch_is_made_and_main_stays(hub, registry) -> None:
    push("maths@1", "--to", TO)
    push("maths@2", "--to", TO, "--revision", "tries/two")
    assert arrived(hub, "tries/two") == published(registry, 2)
    assert arrived(hub) == published(registry, 1)
    assert "there already" in push("maths@2", "--to", TO, "--revision", "tries/two")


def test_private_is_made_private_and_never_lands_in_public(hub, registry) -> None:
    push("maths@1", "--to", TO, "--private")
    assert hub.repositories[TO].private
    hub.repositories[TO].private = False
    hub.requests.clear()
    with pytest.raises(BadInputError, match=f"--private: {TO} is there already and public"):
        push("maths@2", "--to", TO, "--private")
    assert hub.writes() == []


@pytest.mark.parametrize("name", ["maths", "a/b/c", "../x/y", "someone/", "/x", "some one/x", "someone/a..b", ""])
def test_names_that_are_none_reach_nobody(hub, registry, name) -> None:
    with pytest.raises(BadInputError, match=r"--to.*(OWNER/REPO|is empty)"):
        push("maths@1", "--to", name)
    assert hub.requests == []


@pytest.mark.parametrize("branch", ["a..b", "refs/pr/1", "-x", "a b", ""])
def test_branches_that_are_none_reach_nobody(hub, registry, branch) -> None:
    with pytest.raises(BadInputError, match=r"--revision.*(not a branch|is empty)"):
        push("maths@1", "--to", TO, f"--revision={branch}")
    assert hub.requests == []


def test_a_damaged_version_is_never_pushed(hub, registry) -> None:
    (Path(registry.address) / "adapters" / "maths" / "1" / WEIGHTS).write_bytes(b"\1" * 299_999 + b"\2")
    with pytest.raises(IntegrityError, match="maths@1 is not used"):
        push("maths@1", "--to", TO)
    assert hub.requests == []


def test_an_unsigned_version_is_never_pushed_where_keys_are_trusted(hub, registry, tmp_path, monkeypatch) -> None:
    make = f"openssl genpkey -algorithm ed25519 | openssl pkey -pubout -out {tmp_path}/trusted.pem"
    subprocess.run(["sh", "-c", make], check=True)
    monkeypatch.setenv(TRUSTED_KEYS, f"{tmp_path}/trusted.pem")
    with pytest.raises(IntegrityError, match="maths@1 is not signed by a key of"):
        push("maths@1", "--to", TO)
    assert hub.requests == []


def test_what_the_hub_leaves_out_is_noticed(hub, registry) -> None:
    hub.ignored.add("adapter_config.json")
    with pytest.raises(IntegrityError, match=r"adapter_config\.json is not on the hub as it is in maths@1"):
        push("maths@1", "--to", TO)


def test_rights_that_are_missing(hub, registry, monkeypatch) -> None:
    with pytest.raises(UnreachableError, match=r"stranger/x: the hub refused \(403\); it needs HF_TOKEN"):
        push("maths@1", "--to", "stranger/x")
    monkeypatch.setenv("HF_TOKEN", "a-token-that-is-wrong")
    with pytest.raises(UnreachableError, match=rf"{TO}: the hub refused \(401\); it needs HF_TOKEN"):
        push("maths@1", "--to", TO)
    assert hub.repositories == {}


@pytest.mark.parametrize("where", ["/api/models/someone", "/api/repos/create", "/commit/"])
def test_a_hub_that_fails(hub, registry, where) -> None:
    hub.failing[where] = 500
    with pytest.raises(UnreachableError, match=rf"{TO}: the hub is in trouble or too busy \(500\); push again later"):
        push("maths@1", "--to", TO)


def test_an_upload_that_fails_for_good_and_the_next_push(hub, registry, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.failing["/storage/"] = 503
    with pytest.raises(UnreachableError, match=r"the hub is in trouble or too busy \(503\)"):
        push("maths@1", "--to", TO)
    assert arrived(hub) == {}
    hub.failing.clear()
    push("maths@1", "--to", TO)
    assert arrived(hub) == published(registry, 1)


def test_a_hub_without_the_protocol_that_the_client_prefers(hub, registry, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(UnreachableError, match="the hub did not answer"):
        push("maths@1", "--to", TO)
    assert "GET /api/models/someone/maths-lora/xet-write-token/main" in hub.requests


def test_a_bad_request_is_reported_in_the_hubs_words(hub, registry) -> None:
    hub.failing["/api/repos/create"] = 400
    with pytest.raises(BadInputError, match=r"the hub refused \(400\): planted"):
        push("maths@1", "--to", TO)


def test_the_command_ends_with_one_line_and_never_shows_the_token(hub, registry, tmp_path) -> None:
    """As a person meets it: address and token by the environment, here the token from the file of `hf auth login`."""

    def message(endpoint: str) -> tuple[int, str, str]:
        (tmp_path / "token").write_text(TOKEN)
        kept = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
        environment = {"HF_ENDPOINT": endpoint, "HF_TOKEN_PATH": f"{tmp_path}/token", "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "lorapar.cli", "adapters", "push", "maths@1", "--to", TO]
        done = subprocess.run(
            command, env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    hub.failing["/api/repos/create"] = 403
    code, _, line = message(hub.address)
    assert (code, line.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert line.startswith(f"lorapar: {TO}: the hub refused (403)")
    hub.failing.clear()
    code, line, noise = message(hub.address)
    assert code == ExitCode.OK, noise
    assert arrived(hub) == published(registry, 1)
    assert TOKEN not in line + noise
    code, _, line = message("http://127.0.0.1:9")
    assert (code, line.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert line.startswith(f"lorapar: {TO}: the hub did not answer (ConnectError)")
