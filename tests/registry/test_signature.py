"""Signatures: what a trusted key has signed is pulled, everything else is refused, whatever lies in the store."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry import Registry
from lorapar.registry.signature import SIGNING_KEY, TRUSTED_KEYS, sign_version, signatures
from lorapar.store import open_store

WEIGHTS = "adapter_model.safetensors"


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A pair of key files as a person makes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture
def keys(tmp_path) -> dict[str, tuple[Path, Path]]:
    return {name: make_key(tmp_path, name) for name in ("ours", "theirs")}


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(open_store(tmp_path / "registry"))


def publish(registry: Registry, folder: Path, content: str, name: str = "maths"):
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS).write_text(content)
    return registry.publish(name, folder)


def test_only_what_a_trusted_key_has_signed_is_pulled(registry, keys, tmp_path, monkeypatch) -> None:
    publish(registry, tmp_path / "p1", "w1")
    monkeypatch.setenv(SIGNING_KEY, str(keys["ours"][0]))
    signed = publish(registry, tmp_path / "p2", "w2")
    monkeypatch.setenv(SIGNING_KEY, str(keys["theirs"][0]))
    publish(registry, tmp_path / "p3", "w3")
    assert len(signatures(registry.store, signed)) == 1
    registry.pull("maths@1", tmp_path / "free")
    monkeypatch.setenv(TRUSTED_KEYS, str(keys["ours"][1]))
    assert registry.pull("maths@2", tmp_path / "pulled") == signed
    with pytest.raises(IntegrityError, match=r"maths@1 is not signed by a key of .*\(it has none\)"):
        registry.pull("maths@1", tmp_path / "pulled")
    with pytest.raises(IntegrityError, match=r"maths@3 is not signed .*\(it has 1 other signature\)"):
        registry.pull("maths@3", tmp_path / "pulled")
    assert (tmp_path / "pulled" / WEIGHTS).read_text() == "w2"
    sign_version(registry.store, registry.resolve("maths@1"), keys["ours"][0])
    registry.pull("maths@1", tmp_path / "pulled")
    both = tmp_path / "both.pub"
    both.write_bytes(keys["ours"][1].read_bytes() + keys["theirs"][1].read_bytes())
    monkeypatch.setenv(TRUSTED_KEYS, str(both))
    registry.pull("maths@3", tmp_path / "pulled")


def test_who_may_write_cannot_pass_off_other_bytes(registry, keys, tmp_path, monkeypatch) -> None:
    """A manifest and files that fit each other, under a number whose signature is another content's."""
    monkeypatch.setenv(SIGNING_KEY, str(keys["ours"][0]))
    publish(registry, tmp_path / "p1", "w1")
    monkeypatch.delenv(SIGNING_KEY)
    publish(registry, tmp_path / "bad", "poison", name="other")
    monkeypatch.setenv(TRUSTED_KEYS, str(keys["ours"][1]))
    store = registry.store
    for file in (WEIGHTS, "manifest.json"):
        store.write(f"adapters/maths/1/{file}", store.read(f"adapters/other/1/{file}"))
    with pytest.raises(IntegrityError, match="maths@1 is not signed"):
        registry.pull("maths@1", tmp_path / "pulled")
    # Nor does the signature of one version or name serve for another.
    (entry,) = store.list("adapters/maths/signatures/1/")
    store.write(entry.key.replace("/maths/", "/other/"), store.read(entry.key))
    with pytest.raises(IntegrityError, match="other@1 is not signed"):
        registry.pull("other@1", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_what_is_no_key_is_named(registry, tmp_path, monkeypatch) -> None:
    version = publish(registry, tmp_path / "p1", "w1")
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(BadInputError, match=r"nothing\.pem: the signing key cannot be read"):
        sign_version(registry.store, version, nothing)
    nothing.write_text("x")
    with pytest.raises(BadInputError, match="no unencrypted Ed25519 key"):
        sign_version(registry.store, version, nothing)
    monkeypatch.setenv(TRUSTED_KEYS, str(nothing))
    with pytest.raises(BadInputError, match="must hold Ed25519 public keys"):
        registry.pull("maths@1", tmp_path / "pulled")
