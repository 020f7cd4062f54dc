"""`lorapar capture` on a store with requests of two days: listed, shown, exported, deleted, pruned."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.testing

from lorapar.capture import Capture, request_digest
from lorapar.capture.records import Feedback
from lorapar.cli import app
from lorapar.config import DataConfig
from lorapar.config.capture import CaptureConfig
from lorapar.data import load_data
from lorapar.errors import BadInputError, IntegrityError, UnreachableError
from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.registry.start import _folder_digest
from lorapar.store import open_store
from tests.capture.conftest import NOW, asked
from tests.serving.conftest import adapter_files


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """In a registry whose version 2 was trained on one of the requests."""
    monkeypatch.setenv("LORAPAR_REGISTRY", str(tmp_path / "registry"))
    registry = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2):
        folder = adapter_files(tmp_path / f"made{number}", f"weights {number}")
        rows = {"support": {"requests": f"{request_digest('two-00000002')} 0123456789abcdef"}} if number == 2 else None
        write_json(folder / "lineage.json", {"data": {"captures": rows}})
        registry.publish("task", folder)
    made = Capture(registry.store, "support")
    made.describe(CaptureConfig(name="support", retention_days=3))
    formula = asked("one-00000001", "=1+1", redacted=2, redacted_by={"email": 2})
    made.write([formula, asked("two-00000002"), asked("old-00000003", day=1)], NOW)
    made.write([Feedback(request_id="two-00000002", captured_at=NOW, good=True)], NOW)
    return made


def message(*arguments: str | Path) -> str:
    result = typer.testing.CliRunner().invoke(app, ["capture", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(command: str, *arguments: str) -> Any:
    """What is printed with --json, held against the schema of the command."""
    text = message(command, *arguments, "--json")
    schema = typer.testing.CliRunner().invoke(app, ["schema", "capture", command], catch_exceptions=False).stdout
    jsonschema.Draft202012Validator(json.loads(schema)).validate(json.loads(text))
    return json.loads(text)


def test_list_and_show(capture: Capture) -> None:
    (one,) = document("list")["captures"]
    assert (one["name"], one["first_day"], one["last_day"], one["files"]) == ("support", "2026-11-01", "2026-11-20", 3)
    assert "2026-11-20" in message("list", "--store", capture.store.address)
    found = document("show", "support")
    assert (found["requests"], found["praised"], found["redactions"]) == (3, 1, {"email": 2})
    assert found["adapters"] == {"task@1": 3}
    assert found["settings"]["retention_days"] == 3
    assert "support: 3 requests, kept 3 days" in message("show", "support")


def test_all_that_is_kept_of_one_request_can_be_shown_to_whoever_asks(capture: Capture) -> None:
    found = json.loads(message("show", "support", "--request-id", "two-00000002"))
    assert [row["answer"] for row in found["requests"]] == ["5"]
    assert [one["good"] for one in found["feedback"]] == [True]
    with pytest.raises(BadInputError, match="nobody-00001: nothing is kept of it"):
        message("show", "support", "--request-id", "nobody-00001")


def test_sheet_has_requests_without_praise_and_no_formula(capture: Capture, tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    assert message("export", "support", "--file", file).startswith("2 requests of support: ")
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert {row["request_id"]: row["asked"] for row in rows}["one-00000001"] == "user: =1+1"
    assert all(row["answer"] == row["reference"] == "" for row in rows)
    with pytest.raises(BadInputError, match="is there already"):
        message("export", "support", "--file", file)
    message("export", "support", "--file", tmp_path / "since.csv", "--since", "2026-11-02", "--all")
    assert len(list(csv.DictReader((tmp_path / "since.csv").open(encoding="utf-8")))) == 2
    with pytest.raises(BadInputError, match="--since: 'yesterday' is no day"):
        message("export", "support", "--file", tmp_path / "no.csv", "--since", "yesterday")


def test_show_sheet_and_rows_agree_on_the_last_word_and_on_what_can_be_learnt(capture: Capture, tmp_path: Path) -> None:
    later = NOW + timedelta(hours=1)
    # Written in one order and said in the other; a praised answer that was cut off; an id that came twice.
    capture.write([Feedback(request_id="one-00000001", captured_at=later, good=True)], NOW)
    capture.write([Feedback(request_id="one-00000001", captured_at=NOW, good=False)], later)
    cut_off = [
        asked("cut-00000005", "Go on", finish_reason="length"),
        asked("twice-000006", "a"),
        asked("twice-000006", "b", captured_at=later),
    ]
    capture.write(cut_off, NOW)
    capture.write([Feedback(request_id="cut-00000005", captured_at=NOW, good=True)], NOW)
    found = document("show", "support")
    assert (found["praised"], found["blamed"]) == (3, 0)
    file = tmp_path / "sheet.csv"
    message("export", "support", "--file", file)
    rows = {row["request_id"]: row for row in csv.DictReader(file.open(encoding="utf-8"))}
    assert set(rows) == {"old-00000003", "cut-00000005", "twice-000006"}
    assert rows["twice-000006"]["asked"] == "user: b"
    assert rows["cut-00000005"]["said"] == "good"
    config = DataConfig.model_validate(
        {"source": "capture:support", "capture": {"address": capture.store.address}, "heldout": 0}
    )
    learnt = {one.id for one in load_data(config, 0).examples}
    assert learnt == {request_digest(one) for one in ("one-00000001", "two-00000002")}


def test_deletion_says_which_versions_were_trained_on_a_request(capture: Capture) -> None:
    one, two = document("delete", "support", "--request-id", "one-00000001", "--request-id", "two-00000002")["deleted"]
    assert (one["requests"], one["feedback"], one["trained"]) == (1, 0, [])
    assert (two["requests"], two["feedback"], two["trained"]) == (1, 1, ["task@2"])
    assert document("show", "support")["requests"] == 1
    line = message("delete", "support", "--request-id", "two-00000002")
    assert "two-00000002: 0 requests and 0 remarks deleted" in line
    assert "task@2 was trained on it" in line


def publish(registry: Registry, folder: Path, name: str, lineage: dict[str, Any]) -> str:
    """Publish an adapter with that lineage; its digest."""
    adapter_files(folder, folder.name)
    write_json(folder / "lineage.json", lineage)
    return registry.publish(name, folder).digest


def test_deletion_finds_what_goes_on_from_a_version_that_was_trained_on_a_request(
    capture: Capture, tmp_path: Path
) -> None:
    registry = Registry(capture.store)
    digest = registry.resolve("task@2").digest
    # Of other names, so that a version is looked at before the one it goes on from.
    second = publish(registry, tmp_path / "second", "later", {"parent": {"digest": digest}})
    publish(registry, tmp_path / "third", "child", {"parent": {"digest": second}, "data": None})
    publish(registry, tmp_path / "fourth", "copy", {"parent": {"digest": _folder_digest(tmp_path / "third")}})
    publish(registry, tmp_path / "other", "other", {"parent": {"digest": registry.resolve("task@1").digest}})
    found = document("delete", "support", "--request-id", "two-00000002")
    assert found["deleted"][0]["trained"] == ["task@2", "later@1", "child@1", "copy@1"]
    assert found["goes_on"] == {"later@1": "task@2", "child@1": "later@1", "copy@1": "child@1"}
    assert "later@1 goes on from task@2, which was trained on it (row " in message(
        "delete", "support", "--request-id", "two-00000002"
    )


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_deletion_is_reported_though_a_lineage_cannot_be_read(
    options: tuple[str, ...], capture: Capture, tmp_path: Path
) -> None:
    registry = Registry(capture.store)
    damaged = Path(capture.store.address) / "adapters" / "task" / "1" / "lineage.json"
    damaged.write_text("{", encoding="utf-8")
    arguments = ["capture", "delete", "support", "--request-id", "two-00000002", *options]
    result = typer.testing.CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, IntegrityError)
    assert "1 lineages cannot be read, so versions may be missing: " in str(result.exception)
    assert "task@2" in result.stdout
    if options:
        assert json.loads(result.stdout)["deleted"][0]["requests"] == 1
    else:
        assert "1 requests and 1 remarks deleted" in result.stdout
    assert registry.resolve("task@2").number == 2


def test_deletion_is_reported_though_the_registry_cannot_be_listed(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Registry) -> list[str]:
        raise UnreachableError("the bucket does not answer")

    monkeypatch.setattr(Registry, "names", refuse)
    result = typer.testing.CliRunner().invoke(app, ["capture", "delete", "support", "--request-id", "two-00000002"])
    assert isinstance(result.exception, UnreachableError)
    assert "1 requests and 1 remarks deleted" in result.stdout


def test_deletion_needs_no_registry(capture: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LORAPAR_REGISTRY")
    monkeypatch.chdir(tmp_path)
    gone = document("delete", "support", "--store", capture.store.address, "--request-id", "two-00000002")
    assert (gone["deleted"][0]["requests"], gone["deleted"][0]["trained"]) == (1, None)


def test_prune_goes_by_the_server_s_settings_or_by_the_option(capture: Capture) -> None:
    capture.write([asked("now-00000004", captured_at=datetime.now(UTC))], datetime.now(UTC))
    gone = document("prune", "support", "--retention-days", "100000")
    assert gone["days"] == []
    gone = document("prune", "support")
    assert (gone["retention_days"], gone["files"]) == (3, 3)
    assert [row.request_id for row in capture.requests(capture.parts())] == ["now-00000004"]
