"""`--json`: every command that lists or shows has it, and what it prints is what its schema says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import typer.testing

from lorapar.cli import app
from lorapar.cli.documents_reference import DOCUMENTS
from lorapar.config import load_config, preset_names
from lorapar.config.study import load_study
from lorapar.errors import BadInputError, ExitCode, LoraparError
from lorapar.registry import Registry
from lorapar.store import open_store
from lorapar.study.folder import StudyFolder

# A new command is put here only if it does something; one that lists or shows gets --json and a document.
ACT = {
    "chat",
    *("run", "stage", "report", "votes export", "votes import", "models mirror"),
    *("adapters promote", "adapters rollback", "adapters pull", "adapters push", "adapters register", "adapters sign"),
    *("study run", "study report", "tune", "adapters compact"),
    *("compile", "submit", "schedule", "schedules delete"),
    "capture export",
    "ui",  # serves pages to a browser
    *("serve", "export"),  # print a server's command and a manifest: formats of others
    "schema",  # prints JSON anyway
}
LOOKING = ("List", "Show", "Say", "Compare", "Check")
"""Words that the help of commands begins with that list or show."""


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, whole)
        else:
            yield whole, command


def call(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and standard output; errors give theirs."""
    try:
        result = typer.testing.CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    except LoraparError as error:
        return int(error.exit_code), ""
    return result.exit_code, result.stdout


def printed(command: str, *arguments: str | Path, code: ExitCode = ExitCode.OK) -> Any:
    """What the command prints with --json, held against the schema that `lorapar schema` prints for it."""
    ended, text = call(*command.split(), *arguments, "--json")
    assert ended == code, text
    schema = json.loads(call("schema", *command.split())[1])
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    return json.loads(text)


@pytest.fixture
def registry(tiny_run, tmp_path, monkeypatch) -> Path:
    """A copy of the tiny run's registry with a second version, which production names."""
    folder = Path(shutil.copytree(tiny_run.parent / "registry", tmp_path / "registry"))
    monkeypatch.setenv("LORAPAR_REGISTRY", str(folder))
    opened = Registry(open_store(folder))
    opened.pull("tiny@1", tmp_path / "second")
    lineage = json.loads((tmp_path / "second" / "lineage.json").read_text())
    lineage["settings"]["rl"]["learning_rate"] = 0.5
    (tmp_path / "second" / "lineage.json").write_text(json.dumps(lineage))
    opened.publish("tiny", tmp_path / "second")
    opened.set_alias("tiny", "production", 1, reason="the first")
    opened.set_alias("tiny", "production", 2, reason="the second")
    return folder


def test_every_command_that_lists_or_shows_has_json() -> None:
    having = {name for name, command in commands() if any("--json" in p.opts for p in command.params)}
    everything = dict(commands())
    assert having == set(DOCUMENTS), "each has a document, and each document a command"
    undecided = set(everything) - having - ACT
    assert not undecided, f"do {sorted(undecided)} list or show something? Then they need --json and a document"
    looking = {name for name, command in everything.items() if command.help.split()[0] in LOOKING}
    assert looking <= having, f"{sorted(looking - having)} list or show, and have no --json"


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_help_shows_an_example_of_each_command(name: str, command: Any) -> None:
    _, _, examples = command.help.partition("\n\nExample")
    lines = re.findall(r"`lorapar ([^`]+)`", examples)
    assert lines
    for line in lines:
        before, _, rest = line.partition(name)
        assert not before, f"{line}: is an example of another command"
        words = re.split(r" [>|] ", rest)[0]
        command.make_context(name, shlex.split(words))


def test_presets_and_one_with_its_settings() -> None:
    assert [row["name"] for row in printed("presets")["presets"]] == list(preset_names())
    (tiny,) = printed("presets", "--show", "tiny")["presets"]
    assert tiny["settings"]["name"] == "tiny"


def test_studies_and_how_the_cells_of_one_stand(tmp_path) -> None:
    assert "theta-demo" in [row["name"] for row in printed("study list")["studies"]]
    (shown,) = printed("study list", "--show", "theta-demo")["studies"]
    assert shown["settings"]["grid"]
    folder = StudyFolder(tmp_path / "out")
    with folder.locked():
        folder.write_settings(load_study("theta-demo"), load_config(preset="tiny"), str(tmp_path / "store"))
    cells = printed("study status", folder.root)["cells"]
    assert {(one["state"], one["reached"], one["nodes_finished"]) for one in cells} == {("waiting", None, 0)}
    assert len(cells) == 15


def test_the_registry_as_documents(registry) -> None:
    (row,) = printed("adapters list")["adapters"]
    assert (row["name"], row["versions"], row["latest"]) == ("tiny", 2, 2)
    assert {one["alias"]: one["version"] for one in row["aliases"]} == {"candidate": 1, "production": 2}
    versions = printed("adapters list", "tiny")["versions"]
    assert [(one["version"], one["aliases"]) for one in versions] == [(2, ["production"]), (1, ["candidate"])]
    shown = printed("adapters show", "tiny@1")
    assert shown["files"]["adapter_model.safetensors"] > 0
    assert shown["max_lora_rank"] >= shown["rank"]
    diff = printed("adapters diff", "tiny@1", "tiny@2")
    assert {
        "key": "settings.rl.learning_rate",
        "left": pytest.approx(diff["differences"][0]["left"]),
        "right": 0.5,
    } in (diff["differences"])
    assert diff["weights"]["changed"] == 0
    why = printed("adapters why", "tiny@production")
    assert (why["version"], why["moves"][0]["reason"]) == (2, "the second")
    assert why["lineage"]["settings"]["rl"]["learning_rate"] == 0.5


def test_history_names_every_move_the_newest_first(registry) -> None:
    moves = printed("adapters history", "tiny", "--alias", "production")["moves"]
    assert [(move["version"], move["reason"]) for move in moves] == [(2, "the second"), (1, "the first")]
    assert {move["alias"] for move in printed("adapters history", "tiny")["moves"]} == {"production", "candidate"}
    _, text = call("adapters", "history", "tiny")
    assert text.index("the second") < text.index("the first")
    with pytest.raises(BadInputError, match="did you mean 'production'"):
        typer.testing.CliRunner().invoke(
            app, ["adapters", "history", "tiny", "--alias", "prodution"], catch_exceptions=False
        )


def test_damage_is_in_the_document_and_in_the_exit_code(registry) -> None:
    assert {one["fault"] for one in printed("adapters verify")["checks"]} == {None}
    (registry / "adapters" / "tiny" / "1" / "adapter_config.json").write_text("{}")
    faults = [one for one in printed("adapters verify", code=ExitCode.INTEGRITY)["checks"] if one["fault"]]
    assert [one["what"] for one in faults] == ["tiny@1"]
    (registry / "adapters" / "tiny" / "2" / "manifest.json").write_text("{}")
    ended, text = call("adapters", "list", "tiny", "--json")
    assert ended == ExitCode.INTEGRITY
    assert text == "" or json.loads(text)["versions"][0]["fault"]


def test_versions_that_may_go(registry) -> None:
    Registry(open_store(registry)).set_alias("tiny", "candidate", 2)
    found = printed("adapters gc", "--keep", "0", "--grace-days", "0", "--dry-run")
    assert found == {"versions": []}, "production would be rolled back to version 1"


def test_a_run_folder_as_documents(tiny_run) -> None:
    planned = printed("plan", "--preset", "tiny", "--out", tiny_run)
    states = {node["node"]: node["state"] for node in planned["nodes"]}
    assert states["sft"] == "reuse"
    assert any(node["memory_bytes"] for node in planned["nodes"])
    gate = printed("gate", tiny_run, code=ExitCode.NOT_BETTER)
    assert (gate["better"], gate["name"], gate["version"]) == (False, "tiny", 1)


def test_a_run_that_is_watched(tiny_run) -> None:
    seen = printed("watch", tiny_run)
    assert seen["state"] == "finished"
    assert [node["node"] for node in seen["nodes"]][:2] == ["plan", "prepare"]
    assert seen["now"][0]["history"][-1]["step"] == 2


def test_the_partition_and_its_sweep(tiny_copy) -> None:
    assert printed("partition", tiny_copy)["sweep"] is None
    swept = printed("partition", tiny_copy, "--sweep")
    assert [row["theta"] for row in swept["sweep"]] == sorted(row["theta"] for row in swept["sweep"])
    assert Path(swept["plot"]).is_file()
    assert set(swept["sweep"][0]["jaccard"]) == {"system1/system2"}


def test_what_a_store_holds(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "note.txt").write_text("a root")
    found = printed("gc", tmp_path / "store")
    assert (found["needed"], found["left_over"], found["removed"]) == (0, 0, None)


def test_what_this_machine_can_do(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("lorapar.doctor._hub", lambda: __import__("lorapar.doctor").doctor.Finding("hub", "not asked"))
    found = {one["what"]: one for one in printed("doctor")["findings"]}
    assert found["python"]["state"] == "ok"


def test_a_command_without_json_is_named_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match="did you mean 'adapters list'"):
        typer.testing.CliRunner().invoke(app, ["schema", "adapters", "lst"], catch_exceptions=False)
