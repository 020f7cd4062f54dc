"""Every command line of a rendered pod is one that the program in its image takes: a flag that does not exist fails."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lorapar.cli import app
from tests.helm.chart import (
    CHART,
    EVERYTHING,
    PROFILES,
    Manifest,
    all_renderings,
    containers,
    environment,
    pods,
    render,
)
from tests.integration.s3_server import weed_program

SURFACE = json.loads((Path(__file__).parent / "vllm_surface.json").read_text(encoding="utf-8"))
SERVER = ["python", "-m", "vllm.entrypoints.openai.api_server"]


def renderings() -> Iterator[tuple[str, list[Manifest]]]:
    yield from all_renderings().items()
    for server in ("minio", "seaweedfs"):
        store = {**EVERYTHING["objectStore"], "development": {"enabled": True, "server": server}}
        yield server, render(values={**EVERYTHING, "objectStore": store})
    adapter = {**EVERYTHING["serving"], "baseModelName": "a/b", "maxModelLength": 512, "revision": "x"}
    yield "more of serving", render(values={**EVERYTHING, "serving": adapter})
    fetched = {**EVERYTHING["serving"], "model": "s3://models/qwen"}
    models = [{"name": "one", "model": "s3://models/qwen"}, {"name": "two", "model": "builtin:tiny"}]
    teachers = {**EVERYTHING["teachers"], "models": models}
    yield "models from the store", render(values={**EVERYTHING, "serving": fetched, "teachers": teachers})


def command_lines() -> dict[str, tuple[list[str], dict[str, Any]]]:
    """All (command line, container) by where they stand; init containers too."""
    found = {}
    for name, manifests in renderings():
        for which, spec in pods(manifests):
            for container in containers(spec):
                words = [*container["command"], *container.get("args", [])]
                found[f"{name}: {which}: {container['name']}"] = (words, container)
    return found


LINES = command_lines()


def server_problems(arguments: list[str]) -> list[str]:
    """What vLLM's server would say to these arguments, by the options read from the real one."""
    problems = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in SURFACE["options"]:
            problems.append(f"{name}: no such option")
            continue
        choices = SURFACE["options"][name]
        if (choices is None) is bool(equals):
            problems.append(f"{argument}: {'takes no value' if choices is None else 'needs a value'}")
        elif choices and value not in choices:
            problems.append(f"{argument}: not one of {choices}")
    return problems


def lorapar_problems(words: list[str]) -> list[str]:
    """What lorapar's own parser says to a command line; options may be written as Kubernetes fills them in."""
    group: Any = typer.main.get_command(app)
    while words and hasattr(group, "commands"):
        name, *words = words
        if name not in group.commands:
            return [f"{name}: no such command"]
        group = group.commands[name]
    try:
        group.make_context("lorapar", list(words))
    except Exception as error:  # click's own exceptions, whatever they are called in its version
        return [f"{type(error).__name__}: {error}"]
    return []


def script_problems(words: list[str]) -> list[str]:
    """What is wrong with a call of one of the chart's scripts."""
    script = CHART / "files" / Path(words[0]).name
    if not words[0].startswith("/scripts/") or not script.is_file():
        return [f"{words[0]}: no script of the chart"]
    compile(script.read_text(encoding="utf-8"), str(script), "exec")
    return [] if len(words) >= 2 else ["needs what to check"]


@functools.cache
def weed_flags() -> set[str]:
    """Flags that the real `weed server` lists."""
    shown = subprocess.run([str(weed_program()), "server", "-h"], capture_output=True, text=True, check=False)
    text = shown.stdout + shown.stderr
    return {line.split()[0] for line in text.splitlines() if line.strip().startswith("-")}


def problems(words: list[str]) -> list[str]:
    if words[:3] == SERVER:
        return server_problems(words[3:])
    if words[0] == "lorapar":
        return lorapar_problems(words[1:])
    if words[0] == "python":
        return script_problems(words[1:])
    if words[:2] == ["weed", "server"]:
        return [word for word in words[2:] if word.split("=")[0] not in weed_flags()]
    # Its image cannot be had where the tests run; `minio server --help` lists these.
    if words[:2] == ["minio", "server"]:
        return [word for word in words if word.startswith("-") and word not in ("--address", "--certs-dir")]
    return [f"{words[0]}: an unknown program"]


@pytest.mark.parametrize("line", sorted(LINES))
def test_the_image_s_program_takes_the_command(line: str) -> None:
    words, _ = LINES[line]
    assert problems(words) == []


@pytest.mark.parametrize(
    "wrong",
    [
        [*SERVER, "--model=a", "--max-lora-ranks=8"],
        [*SERVER, "--enable-lora=yes"],
        [*SERVER, "--dtype=int3"],
        ["lorapar", "serve", "--flag-that-is-not-there"],
        ["lorapar", "servee"],
        ["python", "/scripts/not_there.py", "x"],
        ["weed", "server", "-s4"],
        ["bash", "-c", "true"],
    ],
)
def test_a_flag_that_does_not_exist_is_found(wrong: list[str]) -> None:
    assert problems(wrong)


def servers() -> Iterator[dict[str, Any]]:
    for words, container in LINES.values():
        if words[:3] == SERVER and "--enable-lora" in words:
            yield container


def test_the_middleware_is_where_the_command_says() -> None:
    for container in servers():
        (path,) = [word.split("=")[1] for word in container["args"] if word.startswith("--middleware=")]
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_middleware_understands_its_environment() -> None:
    from lorapar.serving.settings import settings_from

    for container in servers():
        variables = {name: value for name, value in environment(container).items() if isinstance(value, str)}
        settings = settings_from(variables)
        assert settings.registry.endswith("/registry")
        assert settings.names
        assert str(settings.cache).startswith("/cache/")


def test_the_server_has_what_lorapar_serve_would_give_it() -> None:
    """The chart writes the command itself, as an adapter need not be published yet; it leaves nothing out."""
    from lorapar.serving.command import _PROGRAM, MIDDLEWARE

    for container in servers():
        assert tuple(container["command"]) == _PROGRAM
        options = {word.split("=")[0] for word in container["args"]}
        assert {"--model", "--enable-lora", "--max-lora-rank", "--max-loras", "--middleware"} <= options
        assert f"--middleware={MIDDLEWARE}" in container["args"]
        assert environment(container)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_leaves_room_for_the_next_version_of_every_adapter(profile: str) -> None:
    """While an alias moves, two versions of its adapter are loaded (as `lorapar serve` reckons)."""
    for _, spec in pods(render(profile)):
        for container in containers(spec):
            if "--enable-lora" in container.get("args", []):
                adapters = environment(container)["LORAPAR_SERVING_ADAPTERS"].split(",")
                (slots,) = [int(word.split("=")[1]) for word in container["args"] if word.startswith("--max-loras=")]
                assert slots >= 2 * len(adapters)
