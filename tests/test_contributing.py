"""What carries the work on: commands and targets that are named exist, forms are forms, one version everywhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorapar import __version__

ROOT = Path(__file__).resolve().parents[1]
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
EXAMPLES = {"ruff": "lorapar/__init__.py", "ruff-format": "lorapar/__init__.py", "shellcheck": "images/build.sh"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of("Makefile"), re.MULTILINE))
    for page in ("CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        for line in re.findall(r"\bmake ((?:[a-z0-9-]+ ?)+)", "\n".join(re.findall(r"`[^`]+`", text_of(page)))):
            assert set(line.split()) <= targets, f"{page}: make {line}"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_takes(form: Path) -> None:
    """GitHub shows no form at all, and no error, where a field is not of its schema."""
    parsed = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert set(parsed) == {"name", "description", "labels", "body"}
    identities = [field["id"] for field in parsed["body"] if field["type"] != "markdown"]
    assert len(set(identities)) == len(identities) > 0
    for field in parsed["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        wanted = "value" if field["type"] == "markdown" else "label"
        assert field["attributes"][wanted]
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert ("options" in field["attributes"]) is (field["type"] in ("dropdown", "checkboxes"))


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_and_finds_nothing(hook: dict[str, Any]) -> None:
    example = EXAMPLES.get(hook["id"], ".github/workflows/ci.yaml")
    if "files" in hook:
        assert re.search(hook["files"], example)
    done = subprocess.run([*hook["entry"].split(), example], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_version_everywhere() -> None:
    chart = yaml.safe_load(text_of("helm/lorapar/Chart.yaml"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert 'version = { attr = "lorapar.__version__" }' in text_of("pyproject.toml")
    for path in ("README.md", "images/build.sh", "Makefile", "helm/lorapar/values.yaml"):
        assert not re.search(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])", text_of(path)), f"{path} says it again"


def test_the_changelog_has_the_version_and_what_is_to_come() -> None:
    sections = re.findall(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert __version__ in sections


def test_a_release_needs_its_section_of_the_changelog() -> None:
    steps = yaml.safe_load(text_of(".github/workflows/release.yaml"))["jobs"]["test"]["steps"]
    (check,) = [step["run"] for step in steps if "CHANGELOG.md" in step.get("run", "")]
    for tag, code in ((f"v{__version__}", 0), ("v99.0.0", 1)):
        done = subprocess.run(
            ["bash", "-ec", check], check=False, cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == code, tag
