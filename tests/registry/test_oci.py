"""`lorapar export --oci`: a version in a container registry, byte for byte what the adapter registry holds."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import stat
import urllib.request
from pathlib import Path

import pytest
import typer.testing

from lorapar.cli import app
from lorapar.errors import BadInputError, ExitCode, IntegrityError, UnreachableError
from lorapar.registry.oci_client import parse_oci_name
from tests.registry.oci_server import double, layer_files, real_registry


@pytest.fixture
def adapters(tiny_run, monkeypatch, tmp_path) -> None:
    """The registry of the tiny run, and a docker that has logged in nowhere."""
    monkeypatch.setenv("LORAPAR_REGISTRY", str(tiny_run.parent / "registry"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()


def log_in(tmp_path: Path, config: dict) -> None:
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))


def export(*arguments: str) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


@pytest.fixture(params=["double", "docker-registry"])
def host(request, tmp_path):
    """A registry's host: the double, and a real one where it is installed."""
    if request.param == "double":
        with double() as server:
            yield server.host
        return
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed: apt-get install docker-registry")
    (tmp_path / "real").mkdir()
    with real_registry(program, tmp_path / "real") as found:
        yield found


def get(host: str, path: str) -> bytes:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}/v2/team/tiny/{path}", headers=accept)) as answer:
        return answer.read()


def test_what_is_pulled_back_is_the_version_byte_for_byte(adapters, host, tmp_path, tiny_run) -> None:
    answer = export("tiny@1", "--oci", f"oci://{host}/team/tiny")
    assert f"tiny@1 is at {host}/team/tiny:1 (sha256:" in answer
    manifest = json.loads(get(host, "manifests/1"))
    (layer,) = manifest["layers"]
    body = get(host, f"blobs/{layer['digest']}")
    assert (len(body), f"sha256:{hashlib.sha256(body).hexdigest()}") == (layer["size"], layer["digest"])
    typer.testing.CliRunner().invoke(app, ["adapters", "pull", "tiny@1", str(tmp_path / "pulled")])
    kept = {p.relative_to(tmp_path / "pulled").as_posix(): p for p in (tmp_path / "pulled").rglob("*") if p.is_file()}
    assert layer_files(body) == {f"models/{name}": path.read_bytes() for name, path in kept.items()}
    # What a container runtime unpacks, and what a registry's page shows.
    config = json.loads(get(host, f"blobs/{manifest['config']['digest']}"))
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    lineage = json.loads(kept["lineage.json"].read_text())
    reported = manifest["annotations"]
    assert reported["lorapar.io/adapter"] == "tiny@1"
    assert reported["lorapar.io/base-digest"] == lineage["base"]["digest"]
    assert reported["lorapar.io/sha256-adapter_model.safetensors"] == lineage["files"]["adapter_model.safetensors"]
    assert reported["lorapar.io/partition-digest"] == lineage["partition"]["digest"]
    # The same version is the same digest, wherever and whenever it is pushed.
    assert "is there already, nothing was changed" in export("tiny@1", "--oci", f"http://{host}/team/tiny:1")
    export("tiny@1", "--oci", f"{host}/team/tiny:production")
    assert get(host, "manifests/production") == get(host, "manifests/1")


AUTH = base64.b64encode(b"me:secret").decode()


@pytest.mark.parametrize(
    "config",
    [{"auths": {"HOST": {"auth": AUTH}}}, {"auths": {"http://HOST/": {"username": "me", "password": "secret"}}}],
)
def test_credentials_are_those_of_docker_login(adapters, tmp_path, config: dict) -> None:
    with double(user="me:secret") as server:
        log_in(tmp_path, json.loads(json.dumps(config).replace("HOST", server.host)))
        export("tiny@1", "--oci", f"{server.host}/team/tiny")
        assert "1" in server.manifests


def test_a_credential_helper_is_asked(adapters, tmp_path, monkeypatch) -> None:
    helper = tmp_path / "docker-credential-mine"
    helper.write_text('#!/bin/sh\nread host\necho \'{"Username": "me", "Secret": "secret"}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with double(user="me:secret") as server:
        log_in(tmp_path, {"credsStore": "mine"})
        export("tiny@1", "--oci", f"{server.host}/team/tiny")
        log_in(tmp_path, {"credHelpers": {server.host: "../../bin/sh"}})
        with pytest.raises(BadInputError, match="no program's name"):
            export("tiny@1", "--oci", f"{server.host}/team/tiny")


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ({}, "refused .401.: docker's config.json has no credentials for it; `docker login 127"),
        ({"auths": {"HOST": {"auth": base64.b64encode(b"me:wrong").decode()}}}, "refused .401.: may not write there"),
    ],
)
def test_a_registry_that_refuses_says_how_to_log_in(adapters, tmp_path, config: dict, answer: str) -> None:
    with double(user="me:secret") as server:
        log_in(tmp_path, json.loads(json.dumps(config).replace("HOST", server.host)))
        with pytest.raises(UnreachableError, match=answer) as refused:
            export("tiny@1", "--oci", f"{server.host}/team/tiny")
        assert "wrong" not in str(refused.value)
    with pytest.raises(UnreachableError, match="did not answer"):
        export("tiny@1", "--oci", f"{server.host}/team/tiny")


def test_what_does_not_arrive_or_would_replace_an_image_is_reported(adapters) -> None:
    with double() as server:
        server.manifests["latest"] = json.dumps({"schemaVersion": 2, "layers": []}).encode()
        with pytest.raises(BadInputError, match="names something that is no adapter"):
            export("tiny@1", "--oci", f"{server.host}/team/tiny:latest")
        server.loses = True
        with pytest.raises(IntegrityError, match="is not in the registry as it was pushed"):
            export("tiny@1", "--oci", f"{server.host}/team/tiny")


@pytest.mark.parametrize(
    "name",
    ["", "repo", "host/", "host/Upper", "host/a//b", "host/../x", "host/a:b c", "ftp://host/a", "https://u:p@host/a"],
)
def test_names_are_looked_at_before_anything_is_sent(name: str) -> None:
    with pytest.raises(BadInputError, match="--oci") as refused:
        parse_oci_name(name)
    assert "u:p" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ghcr.io/a/b", "https://ghcr.io"),
        ("localhost:5000/a:b", "http://localhost:5000"),
        ("https://localhost:5000/a", "https://localhost:5000"),
        ("http://registry.internal/a", "http://registry.internal"),
        ("docker.io/me/a", "https://registry-1.docker.io"),
        ("[::1]:5000/a", "http://[::1]:5000"),
    ],
)
def test_tls_is_spoken_but_with_this_machine(name: str, address: str) -> None:
    assert parse_oci_name(name).address == address


def test_a_folder_has_no_version_to_push() -> None:
    with pytest.raises(BadInputError, match="runs/demo/adapter: a folder has no version; with --oci name an adapter"):
        export("runs/demo/adapter", "--oci", "localhost:1/team/tiny")
