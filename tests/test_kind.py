"""The scripts of tests/kind as far as they go without a cluster: form, arguments, limits, and what a failure shows.

kind, Kubeflow and the images cannot be had where these tests run, so kubectl, helm, kind and docker are small stand-ins
that say what the real ones would and note what they were asked. What only a cluster can show is not shown here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, LOADER, helm, only, render
from tests.helm.test_scripts import answering

ROOT = Path(__file__).resolve().parents[1]
KIND = ROOT / "tests" / "kind"
SCRIPTS = sorted(path for path in KIND.glob("*.sh") if path.name != "common.sh")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")

# A cluster in which one pod hangs: it answers, nothing ever becomes ready.
SICK_KUBECTL = """#!/usr/bin/env bash
echo "kubectl $*" >> "$CALLS"
case "$*" in
  *version*) exit 0 ;;
  *"get pods --no-headers"*)
    echo "lorapar-serving-1 0/1 ImagePullBackOff 0 3m"
    echo "lorapar-bucket-1 0/1 Completed 0 3m" ;;
  *"get pods"*) echo "NAME READY STATUS"; echo "lorapar-serving-1 0/1 ImagePullBackOff" ;;
  *"get events"*) echo "Warning Failed pod/lorapar-serving-1 no such image" ;;
  *"get deployment --selector"*) echo "deployment.apps/lorapar-serving" ;;
  *logs*) echo "the last words of $*" ;;
  *"get pod "*) echo "vllm: waiting" ;;
  *"rollout status"*|*wait*|*"get jobs"*) exit 1 ;;
esac
"""
WELL_KUBECTL = """#!/usr/bin/env bash
echo "kubectl $*" >> "$CALLS"
case "$*" in
  *"get jobs"*) echo "lorapar-bucket-1234abcd" ;;
  *"get deployment --selector"*) echo "deployment.apps/lorapar-serving" ;;
  *port-forward*) echo "Forwarding from 127.0.0.1:$STAND_IN_PORT -> 8000"; exec sleep 60 ;;
esac
"""
NOTING = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
"""

# What the scripts take from the system; kubectl, docker and the like that this machine may have are not among them.
SYSTEM = (
    *("awk", "base64", "basename", "bash", "cat", "cut", "date", "dirname", "env", "grep", "head", "mktemp", "printf"),
    *("rm", "sed", "sh", "sleep", "sort", "tail", "timeout", "tr"),
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the system's own tools and nothing else."""
    folder = tmp_path_factory.mktemp("system")
    for tool in SYSTEM:
        found = shutil.which(tool)
        assert found, f"this machine has no {tool}"
        (folder / tool).symlink_to(found)
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    return folder


@pytest.fixture
def script(tmp_path: Path, system: Path) -> Run:
    """Run a script with only the stand-ins given, by name, beside the system's own tools."""

    def run(name: str, *arguments: str, tools: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        for tool, text in tools.items():
            (folder / tool).write_text(text, encoding="utf-8")
            (folder / tool).chmod(0o755)
        environment = {
            "PATH": f"{folder}:{system}",
            "TMPDIR": str(scratch),
            "HOME": str(tmp_path),
            "CALLS": str(tmp_path / "calls"),
            "POLL_SECONDS": "0.2",
            "PATIENCE": "0",
            **variables,
        }
        command = ["bash", str(KIND / name), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=tmp_path
        )
        assert not list(scratch.iterdir()), "a script leaves nothing in the temporary directory"
        return done

    return run


def calls(tmp_path: Path) -> str:
    return (tmp_path / "calls").read_text(encoding="utf-8")


def test_shellcheck_has_nothing_against_any_script() -> None:
    done = subprocess.run(
        [SHELLCHECK, "-x", *sorted(KIND.glob("*.sh"))], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_executable_and_explains_itself(path: Path, script: Run) -> None:
    assert os.access(path, os.X_OK)
    done = script(path.name, "--help", tools={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(path.name)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("kind-up.sh", ["now"]),
        ("kind-down.sh", ["now"]),
        ("load-images.sh", []),
        ("load-images.sh", ["pull"]),
        ("load-images.sh", ["kind", "more"]),
        ("load-images.sh", ["push"]),
        ("kfp-standalone.sh", ["a", "b"]),
        ("kubeflow-store.sh", ["now"]),
        ("serve-check.sh", ["a", "b"]),
    ],
)
def test_wrong_arguments_end_with_2_before_anything_is_done(
    name: str, arguments: list[str], script: Run, tmp_path: Path
) -> None:
    tools = dict.fromkeys(("kubectl", "kind", "docker", "helm"), NOTING)
    done = script(name, *arguments, tools=tools)
    assert done.returncode == 2, done.stderr
    assert "--help" in done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "there", "missing"),
    [
        ("kind-up.sh", [], [], "kind kubectl docker"),
        ("kind-up.sh", [], ["docker"], "kind kubectl"),
        ("load-images.sh", ["kind"], [], "docker kind"),
        ("load-images.sh", ["kind"], ["docker"], "kind"),
        ("load-images.sh", ["kind"], ["kind"], "docker"),
        ("load-images.sh", ["push", "registry.example.com"], ["kind"], "docker"),
        ("minio.sh", [], [], "kubectl helm"),
        ("run-tiny.sh", [], ["kubectl"], "lorapar"),
    ],
)
def test_missing_tools_are_all_named(
    name: str, arguments: list[str], there: list[str], missing: str, script: Run
) -> None:
    done = script(name, *arguments, tools=dict.fromkeys(there, NOTING))
    assert done.returncode == 3
    assert done.stderr.strip().endswith(f"missing: {missing}")


def test_no_cluster_is_one_clear_line(script: Run) -> None:
    done = script("install-chart.sh", tools={"kubectl": "#!/bin/sh\nexit 1\n", "helm": NOTING})
    assert done.returncode == 1
    assert "KUBECONFIG" in done.stderr


def test_a_wait_that_runs_out_shows_what_is_unhealthy(script: Run) -> None:
    done = script("install-chart.sh", tools={"kubectl": SICK_KUBECTL, "helm": NOTING})
    assert done.returncode == 4
    assert "TIMED OUT" in done.stderr
    for shown in ("ImagePullBackOff", "no such image", "the last words", "vllm: waiting"):
        assert shown in done.stderr
    assert "logs lorapar-bucket-1" not in done.stderr, "what ended well is not unhealthy"


def test_a_failing_helm_shows_what_is_unhealthy(script: Run) -> None:
    done = script("install-chart.sh", tools={"kubectl": SICK_KUBECTL, "helm": "#!/bin/sh\nexit 1\n"})
    assert done.returncode == 1
    assert "ImagePullBackOff" in done.stderr
    assert "helm could not install the chart" in done.stderr


def test_install_passes_further_values_on(script: Run, tmp_path: Path) -> None:
    done = script("install-chart.sh", "--set", "serving.replicas=2", tools={"kubectl": WELL_KUBECTL, "helm": NOTING})
    assert done.returncode == 0, done.stderr
    asked, call = (line for line in calls(tmp_path).splitlines() if line.startswith("helm"))
    assert asked == "helm upgrade --set serving.replicas=2 --help"
    assert call.endswith("--set serving.replicas=2")
    assert f"--values {CHART}/values-kind.yaml" in call


def test_the_object_store_comes_alone(script: Run, tmp_path: Path) -> None:
    done = script("minio.sh", tools={"kubectl": WELL_KUBECTL, "helm": NOTING})
    assert done.returncode == 0, done.stderr
    assert "--set pipeline.enabled=false --set serving.enabled=false" in calls(tmp_path)


@pytest.mark.parametrize("release", ["lorapar", "dev", "my-lorapar-2"])
def test_the_scripts_ask_for_what_a_release_of_any_name_has(release: str, script: Run, tmp_path: Path) -> None:
    rendered = helm("template", release, CHART, "--namespace", "kubeflow", "--values", CHART / "values-kind.yaml")
    made = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in yaml.load_all(rendered.out, LOADER) if one}
    (job,) = (name.removeprefix("job/") for name in made if name.startswith("job/") and "-bucket-" in name)
    tools = {"kubectl": WELL_KUBECTL.replace("lorapar-bucket-1234abcd", job), "helm": NOTING, "lorapar": RUN}
    with answering({"/v1/completions": (200, {"model": "assistant@3", "choices": [{"text": " 5"}]})}) as (address, _):
        told = {"RELEASE": release, "ENDS": "0", "PATIENCE": "1", "STAND_IN_PORT": address.rpartition(":")[2]}
        for command in (["minio.sh"], ["run-tiny.sh"], ["serve-check.sh", "assistant@candidate"]):
            done = script(*command, tools=tools, **told)
            assert done.returncode == 0, f"{command}: {done.stderr}"
    said = calls(tmp_path).replace("get configmap ", "configmap/").replace("--service-account ", "serviceaccount/")
    asked = re.findall(r"(?:statefulset|deployment|service|configmap|serviceaccount)/[a-z0-9-]+", said)
    assert len(set(asked) - {"deployment/ml-pipeline", "service/ml-pipeline"}) == 5
    assert set(asked) - made == {"deployment/ml-pipeline", "service/ml-pipeline"}


def test_images_are_named_as_the_chart_asks_for_them(script: Run, tmp_path: Path) -> None:
    from lorapar import __version__
    from tests.helm.chart import containers, pods

    done = script("load-images.sh", "kind", tools={"docker": NOTING, "kind": NOTING})
    assert done.returncode == 0, done.stderr
    loaded = set(re.findall(r"kind load docker-image --name lorapar (\S+)", calls(tmp_path)))
    assert loaded == {f"ghcr.io/lorapar/{name}:{__version__}" for name in ("client", "trainer", "vllm")}
    asked = {container["image"] for _, spec in pods(render("kind")) for container in containers(spec)}
    assert {image for image in asked if "minio" not in image} <= loaded


def test_an_image_that_was_not_built_is_named(script: Run) -> None:
    done = script("load-images.sh", "kind", tools={"docker": "#!/bin/sh\nexit 1\n", "kind": NOTING})
    assert done.returncode == 1
    assert "images/build.sh" in done.stderr


def test_an_answer_of_the_adapter_passes(script: Run) -> None:
    answer = {"model": "assistant@3", "choices": [{"text": " 5"}]}
    with answering({"/v1/completions": (200, answer)}) as (address, asked):
        done = script(
            "serve-check.sh",
            "assistant@candidate",
            tools={"kubectl": WELL_KUBECTL},
            STAND_IN_PORT=address.rpartition(":")[2],
            PATIENCE="1",
        )
    assert done.returncode == 0, done.stderr
    assert "assistant@3 answered" in done.stdout
    assert asked[0]["body"]["model"] == "assistant@candidate"


def test_an_answer_of_another_model_fails(script: Run) -> None:
    answer = {"model": "base", "choices": [{"text": " 5"}]}
    with answering({"/v1/completions": (200, answer)}) as (address, _):
        done = script(
            "serve-check.sh",
            "tiny@candidate",
            tools={"kubectl": WELL_KUBECTL},
            STAND_IN_PORT=address.rpartition(":")[2],
            PATIENCE="1",
        )
    assert done.returncode == 1
    assert "another model answered" in done.stderr


RUN = """#!/bin/sh
echo "lorapar $*" >> "$CALLS"
exit $ENDS
"""


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (10, 0), (12, 1), (124, 4)])
def test_a_run_that_is_not_better_passes_and_one_that_fails_shows_why(ends: int, code: int, script: Run) -> None:
    tools = {"kubectl": WELL_KUBECTL, "lorapar": RUN}
    done = script("run-tiny.sh", tools=tools, ENDS=str(ends), STAND_IN_PORT="1", PATIENCE="1")
    assert done.returncode == code, done.stderr
    assert ("pods in kubeflow" in done.stderr) is (code != 0)


def test_the_tiny_run_s_command_line_is_one_that_submit_takes(script: Run, tmp_path: Path) -> None:
    from tests.helm.test_commands import lorapar_problems

    script("run-tiny.sh", tools={"kubectl": WELL_KUBECTL, "lorapar": RUN}, ENDS="0", STAND_IN_PORT="1", PATIENCE="1")
    (line,) = [line for line in calls(tmp_path).splitlines() if line.startswith("lorapar")]
    assert lorapar_problems(line.split()[1:]) == []
    assert "--preset tiny" in line


STORE_KUBECTL = """#!/usr/bin/env bash
case "$*" in
  *mlpipeline-minio-artifact*accesskey*) printf %s bWluaW8= ;;
  *mlpipeline-minio-artifact*secretkey*) printf %s bWluaW8xMjM= ;;
  *"create secret"*)
    echo "$*" >> "$CALLS"
    folder=$(printf %s "$*" | sed 's/.*--from-file \\([^ ]*\\).*/\\1/')
    for file in "$folder"/*; do echo "$(basename "$file")=$(cat "$file")"; done ;;
  *"apply --filename -"*) cat > "$CALLS.applied" ;;
esac
"""


def test_the_secret_for_kubeflow_s_store_is_the_one_that_the_values_name(script: Run, tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values-kubeflow-store.yaml").read_text(encoding="utf-8"))["objectStore"]
    done = script("kubeflow-store.sh", tools={"kubectl": STORE_KUBECTL})
    assert done.returncode == 0, done.stderr
    assert f"create secret generic {values['existingSecret']} " in calls(tmp_path)
    assert "minio123" not in calls(tmp_path) + done.stdout + done.stderr, "a key on a command line is seen by all"
    entries = (tmp_path / "calls.applied").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("=", 1) for line in entries) == {
        "AWS_ACCESS_KEY_ID": "minio",
        "AWS_SECRET_ACCESS_KEY": "minio123",
        "AWS_ENDPOINT_URL": values["endpoint"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def test_the_tiny_run_goes_into_the_store_that_the_release_was_installed_with(script: Run, tmp_path: Path) -> None:
    manifests = render("kind", None, "--values", str(CHART / "values-kubeflow-store.yaml"))
    recurring = tmp_path / "recurring.json"
    recurring.write_text(only(manifests, "ConfigMap", "-upload")["data"]["recurring.json"], encoding="utf-8")
    shown = f'case "$*" in *recurring*) cat "{recurring}" ;; esac\n'
    tools = {"kubectl": WELL_KUBECTL + shown, "lorapar": RUN}
    script("run-tiny.sh", tools=tools, ENDS="0", STAND_IN_PORT="1", PATIENCE="1")
    assert "--store s3://mlpipeline/lorapar " in calls(tmp_path)


def test_versions_are_pinned_in_one_file_only() -> None:
    pinned = dict(re.findall(r"^([A-Z_]+)=(\S+)$", (KIND / "versions.env").read_text(encoding="utf-8"), re.MULTILINE))
    assert "@sha256:" in pinned["KIND_NODE_IMAGE"]
    assert re.fullmatch(r"[0-9a-f]{40}", pinned["KFP_COMMIT"])
    for path in (*SCRIPTS, KIND / "common.sh", ROOT / "Makefile"):
        text = path.read_text(encoding="utf-8")
        assert not [value for value in pinned.values() if value in text], path


def test_every_wait_has_a_limit() -> None:
    """Nothing waits but through `wait_until`, whose first argument is its limit."""
    for path in SCRIPTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "wait_until" in line and not line.strip().startswith("#"):
                assert re.search(r"wait_until \d+ ", line), f"{path.name}: {line}"
            assert "timeout $((" in line or not re.search(r"--wait\b", line), f"{path.name}: {line}"
            assert "rollout status" not in line, f"{path.name}: {line}"
