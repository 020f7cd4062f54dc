"""Damaged objects of a registry: one line that names the object and what helps, and what is sound goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.testing

from lorapar.cli import app
from lorapar.errors import BadInputError, ExitCode, IntegrityError
from lorapar.registry import Registry, content_manifest
from lorapar.registry.overview import lineage_of
from lorapar.registry.promotion import promote_by_hand, start_canary
from lorapar.store import open_store

ROOT = "adapters/maths"


def package(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text(weights)
    config = {"r": 8, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = {"name": "owner/base", "revision": "c" * 40, "digest": "d", "dtype": "float32"}
    lineage = {"base": base, "serving": {"rank": 8, "max_lora_rank": 8}, "settings": {"seed": 1}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Two versions: the first in production, the second, which a gate found better, the candidate."""
    made = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        made.publish("maths", package(tmp_path / f"p{number}", f"w{number}"))
    made.set_alias("maths", "production", 1)
    made.set_alias("maths", "candidate", 2)
    incumbent = {"version": 1, "digest": made.resolve("maths@1").digest}
    made.add_verdict(made.resolve("maths@2"), {"better": True, "reasons": ["more"], "incumbent": incumbent})
    return made


def invoke(registry: Registry, *arguments: str) -> typer.testing.Result:
    command = arguments if arguments[0] == "serve" else ("adapters", *arguments)
    return typer.testing.CliRunner().invoke(app, [*command, "--registry", registry.address])


def damage(registry: Registry, key: str, data: str) -> str:
    """Overwrite an object; returns its address."""
    registry.store.write(f"{ROOT}/{key}", data.encode())
    return f"{registry.address}/{ROOT}/{key}"


@pytest.mark.parametrize("data", ["x", "{}", "[]", '{"verdicts": [{"better": 1.5}]}', "\udcff"])
@pytest.mark.parametrize("command", ["list maths", "show maths@2", "why maths@2", "promote maths@2"])
def test_a_damaged_verdict_is_named(registry, data: str, command: str) -> None:
    registry.store.write(f"{ROOT}/verdicts/2.json", data.encode(errors="surrogateescape"))
    error = invoke(registry, *command.split()).exception
    assert isinstance(error, IntegrityError)
    assert f"{registry.address}/{ROOT}/verdicts/2.json: not a list of verdicts" in str(error)
    assert "its gate writes the verdict again" in str(error)


def test_a_gate_does_not_write_over_damaged_verdicts(registry) -> None:
    damage(registry, "verdicts/2.json", "x")
    with pytest.raises(IntegrityError, match=r"verdicts/2\.json: not a list of verdicts"):
        registry.add_verdict(registry.resolve("maths@2"), {"better": True})
    registry.store.delete(f"{ROOT}/verdicts/2.json")  # as the message says
    registry.add_verdict(registry.resolve("maths@2"), {"better": False, "reasons": ["less"], "incumbent": None})
    assert invoke(registry, "list", "maths").exit_code == ExitCode.OK


@pytest.mark.parametrize("command", ["list maths", "show maths@2", "why maths@2"])
def test_a_damaged_claim_is_named(registry, command: str) -> None:
    address = damage(registry, "2/claim.json", "x")
    error = invoke(registry, *command.split()).exception
    assert isinstance(error, IntegrityError)
    assert f"{address}: not a claim" in str(error)


def test_a_deleted_claim_is_written_by_the_next_publication_of_the_content(registry, tmp_path) -> None:
    registry.store.delete(f"{ROOT}/2/claim.json")
    with pytest.raises(IntegrityError, match=r"2/claim\.json: missing; publish"):
        registry.claim(registry.resolve("maths@2"))
    assert registry.publish("maths", tmp_path / "p2").number == 2
    assert registry.claim(registry.resolve("maths@2")).digest == registry.resolve("maths@2").digest


def test_a_damaged_pointer_says_what_belongs_into_it(registry, tmp_path) -> None:
    digest = content_manifest(tmp_path / "p2").digest
    address = damage(registry, f"digests/{digest}.json", "x")
    with pytest.raises(IntegrityError, match=r'not a pointer .*write {"version":2} into it') as message:
        registry.publish("maths", tmp_path / "p2")
    assert address in str(message.value)
    damage(registry, f"digests/{digest}.json", '{"version":2}')
    assert registry.publish("maths", tmp_path / "p2").number == 2


def test_verify_names_every_damaged_record_and_checks_the_rest(registry, tmp_path) -> None:
    digest = content_manifest(tmp_path / "p1").digest
    keys = ("2/manifest.json", "2/claim.json", "verdicts/2.json", "aliases/candidate.json", f"digests/{digest}.json")
    for key in keys:
        damage(registry, key, "{")
    result = invoke(registry, "verify")
    assert result.exit_code == ExitCode.INTEGRITY
    lines = dict(line.split(": ", 1) for line in result.output.splitlines())
    assert lines.pop("maths@1") == "whole"
    names = ("maths@2", "maths@2 claim", "maths@2 verdicts", "maths@candidate", "maths digests")
    assert tuple(lines) == names
    assert all(key in lines[name] for name, key in zip(names, keys, strict=True))


def test_list_shows_a_damaged_version_and_goes_on(registry) -> None:
    address = damage(registry, "2/manifest.json", "{")
    result = invoke(registry, "list", "maths")
    rows = [line.split() for line in result.output.splitlines()[1:]]
    assert rows[0] == ["2", "candidate", "damaged"]
    assert rows[1][:2] == ["1", "production"]
    assert isinstance(result.exception, IntegrityError)
    assert address in str(result.exception)


def test_list_shows_a_version_that_is_gone_though_an_alias_names_it(registry) -> None:
    registry.store.delete(f"{ROOT}/1/manifest.json")
    result = invoke(registry, "list", "maths")
    rows = [line.split()[:3] for line in result.output.splitlines()[1:]]
    assert rows == [["2", "candidate", "better"], ["1", "production", "damaged"]]
    assert isinstance(result.exception, IntegrityError)
    assert "maths@production: it names version 1, which is not in the registry" in str(result.exception)


def test_list_shows_an_adapter_with_a_damaged_alias_and_goes_on(registry, tmp_path) -> None:
    registry.publish("physics", package(tmp_path / "p3", "w3"))
    registry.set_alias("physics", "production", 1)
    address = damage(registry, "aliases/production.json", "{")
    result = invoke(registry, "list")
    rows = [line.split() for line in result.output.splitlines()[1:]]
    assert rows == [["maths", "2", "damaged"], ["physics", "1", "production", "1"]]
    assert isinstance(result.exception, IntegrityError)
    assert address in str(result.exception)


@pytest.mark.parametrize("manifest", ["{", '{"kind": "adapter", "files": {}}'], ids=["damaged", "of another content"])
def test_publishing_the_content_again_puts_a_manifest_back(registry, tmp_path, manifest: str) -> None:
    whole = registry.resolve("maths@2")
    damage(registry, "2/manifest.json", manifest)
    damage(registry, "2/adapter_model.safetensors", "W2")
    assert registry.publish("maths", tmp_path / "p2") == whole
    registry.require_whole(registry.resolve("maths@2"))
    assert registry.versions("maths") == [1, 2]


def test_serve_needs_only_what_it_would_load(registry) -> None:
    address = damage(registry, "2/manifest.json", "{")
    result = invoke(registry, "serve", "maths")
    assert result.exit_code == ExitCode.OK
    assert "--max-lora-rank 8" in result.output
    assert f"maths@candidate is left out, it gets no requests now: {address}" in result.stderr
    registry.set_share("maths", "candidate", 2, 10.0)
    assert isinstance(invoke(registry, "serve", "maths").exception, IntegrityError)


def test_why_shows_and_saves_no_settings_but_those_that_were_published(registry, tmp_path) -> None:
    address = damage(registry, "1/lineage.json", '{"settings": {"seed": 2}}')
    result = invoke(registry, "why", "maths@1", "--save", str(tmp_path / "again.yaml"))
    assert isinstance(result.exception, IntegrityError)
    assert f"{address}: its bytes are not those the manifest names" in str(result.exception)
    assert not (tmp_path / "again.yaml").exists()
    assert lineage_of(registry, registry.resolve("maths@2"))["settings"] == {"seed": 1}


def test_a_canary_and_why_it_ended_are_shown(registry) -> None:
    start_canary(registry, registry.resolve("maths@2"), 10.0)
    for command in ("list", "list maths", "show maths@candidate"):
        assert "10% of the requests" in invoke(registry, *command.split()).output
    registry.set_share("maths", "candidate", 2, 0.0, reason="canary ended by a replica: 5 of 9 failed")
    for command in ("list", "list maths", "show maths@candidate"):
        assert "canary ended by a replica: 5 of 9 failed" in invoke(registry, *command.split()).output
    start_canary(registry, registry.resolve("maths@2"), 0.0)
    assert "canary ended: by hand" in invoke(registry, "show", "maths@2").output


def test_production_gets_no_canary_of_itself(registry) -> None:
    with pytest.raises(BadInputError, match="production names maths@1 already"):
        start_canary(registry, registry.resolve("maths@1"), 10.0)
    assert registry.read_alias("maths", "candidate").version == 2
    promote_by_hand(registry, registry.resolve("maths@2"), None)


def test_an_alias_to_a_missing_version_is_damage(registry, tmp_path) -> None:
    registry.store.delete(f"{ROOT}/1/manifest.json")
    assert isinstance(invoke(registry, "pull", "maths", str(tmp_path / "x")).exception, IntegrityError)
    for reference in ("maths", "maths@production"):
        result = invoke(registry, "verify", reference)
        assert result.exit_code == ExitCode.INTEGRITY
        assert "it names version 1, which is not" in result.output
    assert isinstance(invoke(registry, "pull", "maths@1", str(tmp_path / "x")).exception, BadInputError)


def test_names_that_are_not_there_are_answered_with_the_nearest(registry) -> None:
    error = invoke(registry, "gc", "math").exception
    assert isinstance(error, BadInputError)
    assert "did you mean 'maths'?" in str(error)
    error = invoke(registry, "serve", "maths@1").exception
    assert isinstance(error, BadInputError)
    assert "maths@1 is a version" in str(error)
    assert "LORAPAR_" not in str(error)
