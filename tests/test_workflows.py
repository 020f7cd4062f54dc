"""The workflows of .github: actions pinned to commits, narrow rights, nothing that a caller sent inside a command.

What a workflow does can only be seen on GitHub; what it must never do is checked here, by us and by zizmor.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import pin_images
from tests.helm.chart import CHART

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
# YAML 1.1 reads the key `on` as true.
PARSED: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
USES = re.compile(r"uses: (\S+)@(\S+)( # v\d+\.\d+\.\d+)?$", re.MULTILINE)
# What a job may do beyond reading the code, by workflow and job.
WRITES = {
    ("release.yaml", "images"): {"packages", "id-token"},
    ("release.yaml", "chart"): {"packages", "id-token"},
}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, workflow in PARSED.items():
        for job, settings in workflow["jobs"].items():
            yield name, job, settings


@pytest.mark.parametrize("name", TEXTS)
def test_every_action_is_pinned_to_a_commit_and_names_its_version(name: str) -> None:
    uses = re.findall(r"uses: .*", TEXTS[name])
    pinned = USES.findall(TEXTS[name])
    assert len(pinned) == len(uses) > 0, "write `uses: owner/action@COMMIT # vX.Y.Z`"
    for action, commit, version in pinned:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), action
        assert version, action


def test_an_action_has_one_commit_everywhere() -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for text in TEXTS.values():
        for action, commit, version in USES.findall(text):
            found.setdefault(action, set()).add((commit, version))
    assert not {action: commits for action, commits in found.items() if len(commits) > 1}


@pytest.mark.parametrize("name", TEXTS)
def test_a_workflow_may_read_and_no_more(name: str) -> None:
    assert PARSED[name]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(("name", "job", "settings"), list(jobs()))
def test_a_job_writes_only_what_is_listed_and_ends(name: str, job: str, settings: dict[str, Any]) -> None:
    rights = settings.get("permissions", {})
    assert {right for right, level in rights.items() if level == "write"} == WRITES.get((name, job), set())
    assert settings["timeout-minutes"] <= 360
    assert settings["runs-on"] == "ubuntu-24.04", "a runner that does not change under our feet"


@pytest.mark.parametrize("name", TEXTS)
def test_no_expression_inside_a_command(name: str) -> None:
    """Whoever sends a dispatch or names a branch could put commands there; variables of the environment cannot."""
    for job in PARSED[name]["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_zizmor_has_nothing_against_them() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run([zizmor, "--offline", *FILES], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_retraining_starts_by_schedule_by_new_data_and_by_hand() -> None:
    assert set(PARSED["retrain.yaml"][True]) == {"schedule", "repository_dispatch", "workflow_dispatch"}
    assert PARSED["retrain.yaml"][True]["repository_dispatch"] == {"types": ["new-data"]}
    assert PARSED["retrain.yaml"]["concurrency"]["cancel-in-progress"] is False


def test_release_tests_before_it_builds_and_signs_what_it_pushes() -> None:
    release = PARSED["release.yaml"]["jobs"]
    assert release["images"]["needs"] == "test"
    assert release["chart"]["needs"] == "images"
    (build,) = [s for s in release["images"]["steps"] if s.get("uses", "").startswith("docker/build-push-action@")]
    assert (build["with"]["provenance"], build["with"]["sbom"], build["with"]["push"]) == ("mode=max", True, True)
    for job in ("images", "chart"):
        signed = [step["run"] for step in release[job]["steps"] if "cosign sign" in step.get("run", "")]
        assert len(signed) == 1
        assert "@${DIGEST}" in signed[0], "a tag can be moved after it was signed"


RELEASE_IMAGES = PARSED["release.yaml"]["jobs"]["images"]["strategy"]["matrix"]["include"]


@pytest.mark.parametrize("built", RELEASE_IMAGES, ids=[built["image"] for built in RELEASE_IMAGES])
def test_release_builds_images_that_are_there(built: dict[str, str]) -> None:
    assert (ROOT / "images" / built["image"] / "Dockerfile").is_file()
    assert (ROOT / "locks" / f"{built['lock']}.txt").is_file()


# --- .ci/retrain -----------------------------------------------------------------------------------------------------

Retrain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def retrain(tmp_path: Path) -> Retrain:
    """Run .ci/retrain with a stand-in for lorapar that ends with a code and says something."""

    def run(code: int, message: str = "a table", *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        tool = tmp_path / "bin" / "lorapar"
        tool.parent.mkdir(exist_ok=True)
        lines = ["#!/bin/sh", 'printf "%s\\n" "$@" > arguments', f'printf "{message}\\n"', f"exit {code}", ""]
        tool.write_text("\n".join(lines), encoding="utf-8")
        tool.chmod(0o755)
        environment = {"PATH": f"{tool.parent}:/usr/bin:/bin", **variables}
        command = ["bash", str(ROOT / ".ci" / "retrain"), "mine.yaml", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)

    return run


@pytest.mark.parametrize(
    ("code", "message", "ends", "promoted", "title"),
    [
        (0, "run 7: better, promoted", 0, "true", "Promoted"),
        (0, "run 7: better, but promotion is switched off", 0, "false", "Better, but promotion is switched off"),
        (0, "unchanged since run 7 (succeeded), nothing started", 0, "false", "Nothing has changed"),
        (0, "run 7: nothing changed since run 6, which succeeded", 0, "false", "Nothing has changed"),
        (10, "run 7: not better", 0, "false", "Trained, not better than what is in production"),
        (0, "run 7: better, but not promoted: a person", 0, "false", "Better, but kept out of production by a person"),
        (0, "something else", 0, "unknown", "Ended well, but said nothing of how: look at the registry"),
        (
            13,
            "succeeded, but",
            13,
            "unknown",
            "Succeeded, but whether it was promoted is not known: look at the registry",
        ),
        (14, "run 7 was cancelled", 14, "false", "Cancelled in Kubeflow"),
        (12, "failed: report: x; its adapter was promoted before that", 12, "true", "Failed with exit code 12"),
        (12, "failed at sft", 12, "false", "Failed with exit code 12"),
        (3, "KFP does not answer", 3, "false", "Failed with exit code 3"),
    ],
)
def test_red_only_for_failure(
    code: int, message: str, ends: int, promoted: str, title: str, retrain: Retrain, tmp_path: Path
) -> None:
    output, summary = tmp_path / "output", tmp_path / "job-summary"
    done = retrain(code, message, GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary), GITHUB_ACTIONS="true")
    assert done.returncode == ends
    assert output.read_text(encoding="utf-8") == f"promoted={promoted}\n"
    assert (tmp_path / "retrain.env").read_text(encoding="utf-8") == f"PROMOTED={promoted}\n"
    assert summary.read_text(encoding="utf-8").startswith(f"## {title}\n")
    assert message in summary.read_text(encoding="utf-8")
    assert (f"::notice title=retrain::{title}" in done.stdout) is (ends == 0 and promoted == "false")


def test_the_words_that_tell_endings_apart_are_those_of_submit() -> None:
    sources = (ROOT / "lorapar" / "kubeflow" / "submission.py", ROOT / "lorapar" / "cli" / "kubeflow.py")
    message = "".join(path.read_text(encoding="utf-8") for path in sources)
    words_of_ours = ("promotion is switched off", ", nothing started", "better, promoted", "better, but not promoted: ")
    words_of_ours += ("; its adapter was promoted before that",)
    for words in words_of_ours:
        assert words in message


def test_the_workflow_s_command_line_is_one_that_submit_takes() -> None:
    from tests.helm.test_commands import lorapar_problems

    (step,) = [s for s in PARSED["retrain.yaml"]["jobs"]["retrain"]["steps"] if s.get("id") == "retrain"]
    options = step["run"].split()[2:]
    assert not lorapar_problems(["submit", "--config", "mine.yaml", "--if-changed", "--wait", "--set", "a=b", *options])


def test_the_gitlab_job_in_the_docs_calls_the_same_script_with_options_that_there_are() -> None:
    from tests.helm.test_commands import lorapar_problems

    page = (ROOT / "docs" / "platform" / "retraining.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml gitlab\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(block)["retrain"]
    (line,) = [line for line in job["script"] if line.startswith(".ci/retrain")]
    assert not lorapar_problems(["submit", "--config", "mine.yaml", *line.split()[2:]])
    assert job["artifacts"]["reports"]["dotenv"] == "retrain.env"


def test_the_data_set_is_one_argument_whatever_is_in_it(retrain: Retrain, tmp_path: Path) -> None:
    hostile = "s3://b/new.jsonl; touch broken $(touch broken)"
    retrain(0, "promoted", DATASET=hostile)
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert arguments == ["submit", "--config", "mine.yaml", "--if-changed", "--wait", "--set", f"data.source={hostile}"]
    assert not (tmp_path / "broken").exists()


def test_the_placement_is_handed_on_where_there_is_one(retrain: Retrain, tmp_path: Path) -> None:
    retrain(0, "promoted", PLACEMENT="gpu pool.yaml")
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert arguments[-2:] == ["--placement", "gpu pool.yaml"]
    (step,) = [s for s in PARSED["retrain.yaml"]["jobs"]["retrain"]["steps"] if s.get("id") == "retrain"]
    assert step["env"]["PLACEMENT"] == "${{ vars.LORAPAR_PLACEMENT }}"


def test_colours_stay_out_of_the_summary(retrain: Retrain, tmp_path: Path) -> None:
    retrain(0, r"\033[31mred\033[0m")
    assert "\nred\n" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_shell_files_of_ci_pass_shellcheck() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    files = [path for path in (ROOT / ".ci").iterdir() if os.access(path, os.X_OK)]
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# --- helm/pin_images.py ----------------------------------------------------------------------------------------------


def test_a_packaged_chart_names_the_release_s_images_by_digest() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    digest = "sha256:" + "0123456789abcdef" * 4
    for image in pin_images.IMAGES:
        text = pin_images.pinned(text, image, "ghcr.io/someone/lorapar", digest)
    images = yaml.safe_load(text)["images"]
    for image in pin_images.IMAGES:
        assert images[image]["registry"] == "ghcr.io"
        assert images[image]["repository"] == f"someone/lorapar/{image}"
        assert images[image]["digest"] == digest
    before = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert {k: v for k, v in images.items() if k not in pin_images.IMAGES} == {
        k: v for k, v in before["images"].items() if k not in pin_images.IMAGES
    }


def test_something_that_is_no_digest_is_refused() -> None:
    with pytest.raises(SystemExit, match="no digest"):
        pin_images.pinned((CHART / "values.yaml").read_text(encoding="utf-8"), "client", "ghcr.io/x", "latest")
