"""What Tab offers, asked as a shell asks."""

from __future__ import annotations

import pytest
import typer.testing

from lorapar.cli import app


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder laid out as a registry, with one finished version and one that was only claimed."""
    for number in ("1", "2"):
        (tmp_path / "adapters" / "maths" / number).mkdir(parents=True)
    (tmp_path / "adapters" / "maths" / "1" / "manifest.json").write_text("{}")
    (tmp_path / "adapters" / "maths" / "aliases").mkdir()
    (tmp_path / "adapters" / "maths" / "aliases" / "production.json").write_text("{}")
    monkeypatch.setenv("LORAPAR_REGISTRY", str(tmp_path))
    return tmp_path


def offered(line: str) -> list[str]:
    """What bash would be told for a line whose last word is being typed."""
    variables = {
        "_LORAPAR_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    result = typer.testing.CliRunner().invoke(app, [], env=variables, prog_name="lorapar")
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lorapar run --preset ti", ["tiny"]),
        ("lorapar plan --until sc", ["score"]),
        ("lorapar stage pub", ["publish"]),
        ("lorapar schema adapters di", ["diff"]),
        ("lorapar adapters sho", ["show"]),
    ],
)
def test_presets_stages_and_commands(line: str, words: list[str]) -> None:
    assert offered(line) == words


def test_adapters_of_a_registry_that_is_a_folder(registry, monkeypatch) -> None:
    assert offered("lorapar adapters show m") == ["maths"]
    assert offered("lorapar adapters show maths@") == ["maths@production", "maths@1"], "version 2 is not finished"
    assert offered("lorapar adapters rollback maths@p") == [], "a name, no reference"
    monkeypatch.delenv("LORAPAR_REGISTRY")
    assert offered(f"lorapar adapters show --registry {registry} m") == ["maths"]


@pytest.mark.parametrize("typed", ["../", "maths/../../", "nobody@"])
def test_what_is_no_adapter_offers_nothing(registry, typed: str) -> None:
    assert offered(f"lorapar adapters show {typed}") == []


def test_a_registry_in_a_bucket_is_not_asked(monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_REGISTRY", "s3://bucket/prefix")
    assert offered("lorapar adapters show m") == []
