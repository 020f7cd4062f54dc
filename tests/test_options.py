"""The public surface is frozen: options, settings keys and keys of JSON change only together with these three files.

A failure here is a question: is the change meant, and can people's scripts and YAML files live with it? If so, run
`make freeze` and commit the changed files with the change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer.main

from lorapar.cli import app
from lorapar.cli.documents_reference import document_keys
from lorapar.config.reference import setting_keys

FROZEN = Path(__file__).parent / "frozen"
HOW = "changed; if that is meant, run `make freeze` and commit tests/frozen with the change"


def option_lines() -> list[str]:
    """One line for each argument and option of each command, as `run --preset` or `run --fresh (flag)`."""
    group: Any = typer.main.get_command(app)
    lines = [f"lorapar {_describe(parameter)}" for parameter in group.params]
    return lines + _command_lines("", group)


def _command_lines(path: str, group: Any) -> list[str]:
    """The commands of a group, and of the groups in it, as `adapters list`."""
    lines: list[str] = []
    for name, command in sorted(group.commands.items()):
        whole = f"{path} {name}".strip()
        lines.append(whole)
        lines += [f"{whole} {_describe(parameter)}" for parameter in command.params]
        if hasattr(command, "commands"):
            lines += _command_lines(whole, command)
    return lines


def _describe(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"{parameter.name.upper()} (argument)"
    traits = [trait for trait, has in (("flag", parameter.is_flag), ("several", parameter.multiple)) if has]
    return " ".join([*sorted(parameter.opts), *(f"({trait})" for trait in traits)])


def test_command_line_is_frozen() -> None:
    frozen = (FROZEN / "options.txt").read_text(encoding="utf-8").splitlines()
    assert option_lines() == frozen, f"the commands or their options {HOW}"


def test_settings_keys_are_frozen() -> None:
    frozen = (FROZEN / "settings.txt").read_text(encoding="utf-8").splitlines()
    assert setting_keys() == frozen, f"the keys of the settings {HOW}"


def test_keys_of_what_json_prints_are_frozen() -> None:
    frozen = (FROZEN / "json.txt").read_text(encoding="utf-8").splitlines()
    assert document_keys() == frozen, f"the keys that commands print with --json {HOW}"


if __name__ == "__main__":
    FROZEN.mkdir(exist_ok=True)
    (FROZEN / "options.txt").write_text("\n".join(option_lines()) + "\n", encoding="utf-8")
    (FROZEN / "settings.txt").write_text("\n".join(setting_keys()) + "\n", encoding="utf-8")
    (FROZEN / "json.txt").write_text("\n".join(document_keys()) + "\n", encoding="utf-8")
