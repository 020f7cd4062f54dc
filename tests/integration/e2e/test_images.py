"""The images as they were built: what they are, and what must not be in them."""

from __future__ import annotations

import json

import pytest

from lorapar import __version__
from lorapar.kubeflow.tasks import IMAGES, default_reference, image_of
from lorapar.stages.contract import STAGE_NAMES

SCRATCH = ("--tmpfs", "/scratch:mode=1777,exec")
HARDENED = (
    "--read-only",
    "--cap-drop",
    "ALL",
    "--user",
    "10001",
    "--tmpfs",
    "/scratch:mode=1777,exec",
    "--network",
    "none",
)


@pytest.mark.parametrize("image", IMAGES)
def test_user_entry_point_and_labels(docker, image) -> None:
    (about,) = json.loads(docker("image", "inspect", default_reference(image)).stdout)
    config = about["Config"]
    assert config["User"] == "10001:10001"
    assert not config["Entrypoint"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"] == f"lorapar {image}"


@pytest.mark.parametrize("image", IMAGES)
def test_no_kfp_no_pip_no_tests_and_torch_only_where_it_is_needed(docker, image) -> None:
    program = (
        "import importlib.util, json; "
        "print(json.dumps({name: importlib.util.find_spec(name) is not None "
        "for name in ('kfp', 'pip', 'pytest', 'torch', 'vllm')}))"
    )
    found = json.loads(docker("run", "--rm", *HARDENED, default_reference(image), "python", "-c", program).stdout)
    assert found == {
        "kfp": False,
        "pip": False,
        "pytest": False,
        "torch": image != "client",
        "vllm": image == "vllm",
    }


@pytest.mark.parametrize("image", IMAGES)
def test_the_bill_of_materials_names_what_is_installed(docker, image) -> None:
    done = docker("run", "--rm", *HARDENED, default_reference(image), "cat", "/opt/lorapar/sbom/python.cdx.json")
    bill = json.loads(done.stdout)
    assert bill["bomFormat"] == "CycloneDX"
    assert {"pydantic", "lorapar"} <= {component["name"] for component in bill["components"]}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_stage_answers_in_its_image(docker, stage) -> None:
    """Bad input ends with 2 and one line: the command, the stage and its imports are there."""
    command = ("lorapar", "stage", stage, "--executor-input", "{}", "--store", "/scratch/store")
    done = docker("run", "--rm", *HARDENED, default_reference(image_of(stage)), *command)
    if stage in ("plan", "report"):
        return
    assert done.returncode == 2, done.stderr
    assert "the parameter 'settings' is missing" in done.stderr
