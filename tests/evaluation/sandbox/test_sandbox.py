"""Hostile, wrong and correct programs in a real sandbox: how each ends, and that nothing of it is left."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lorapar
from lorapar.errors import BadInputError
from lorapar.evaluation.sandbox import Sandbox, SandboxPool
from lorapar.evaluation.sandbox.attempts import ATTEMPTS

NAMES = sorted(path.stem for path in (Path(__file__).parent / "programs").glob("*.py"))


@pytest.fixture(scope="module")
def sandbox(limits):
    with Sandbox(limits) as started:
        yield started


def ends_as(expected: str, status: str, detail: str) -> bool:
    right, _, pattern = expected.partition(" ")
    return re.fullmatch(right, status) is not None and re.search(pattern, detail) is not None


@pytest.mark.parametrize("name", NAMES)
def test_ends_as_it_must(name, sandbox, programs, target) -> None:
    expected, source = programs[name]
    outcome = sandbox.run(target.fill(source, sandbox._warden.pid))
    assert ends_as(expected, outcome.status, outcome.detail), outcome
    assert outcome.seconds < 10


def test_after_all_of_them_the_sandbox_still_works_and_nothing_is_left(sandbox) -> None:
    assert sandbox.run("assert 1 + 1 == 2").passed
    children = Path(f"/proc/{sandbox._warden.pid}/task/{sandbox._warden.pid}/children").read_text()
    assert children == ""
    assert os.listdir(sandbox._place) == ["outside"]


def test_this_platform_guarantees_everything(sandbox) -> None:
    assert sandbox.gaps == []
    assert {"rlimits", "no_new_privs", "seccomp"} <= set(sandbox.layers)


def test_programs_do_not_see_each_other(sandbox) -> None:
    assert sandbox.run("open('note', 'w').write('x')").passed
    assert sandbox.run("import os; assert os.listdir('.') == ['program.py']").passed


def test_the_last_line_of_the_output_is_kept_short_and_printable(sandbox) -> None:
    outcome = sandbox.run("print('\\x1b[31m' + 'y' * 900)\nraise SystemExit(3)")
    assert outcome.status == "failed"
    assert outcome.detail == "?[31m" + "y" * 495


def test_a_pool_runs_programs_side_by_side_and_knows_which_is_which(limits) -> None:
    source = "import time; a = time.monotonic(); time.sleep(1.5); raise SystemExit(f'{n} {{a}} {{time.monotonic()}}')"
    with SandboxPool(limits, "strict", workers=4) as pool:
        found = dict(pool.outcomes([source.format(n=n) for n in range(4)]))
    message = {place: outcome.detail.split() for place, outcome in found.items()}
    assert {place: int(number) for place, (number, _, _) in message.items()} == {n: n for n in range(4)}
    # One begins before another has ended: the clock is the same for all of them.
    spans = sorted((float(begun), float(ended)) for _, begun, ended in message.values())
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


def test_a_stage_that_dies_takes_program_and_warden_along(limits, tmp_path) -> None:
    script = f"""
import sys
from lorapar.evaluation.sandbox import Limits, Sandbox
with Sandbox(Limits(**{dataclasses.asdict(limits) | {"wall_seconds": 60}!r})) as sandbox:
    print(sandbox._warden.pid, flush=True)
    sandbox.run("import time; time.sleep(60)")
"""
    own = {**os.environ, "TMPDIR": str(tmp_path)}  # what is killed leaves its folder behind
    stage = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=own)
    warden = int(stage.stdout.readline())
    children = Path(f"/proc/{warden}/task/{warden}/children")
    deadline = time.monotonic() + 20
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    program = int(children.read_text())
    stage.kill()
    stage.wait()
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in (warden, program)):
        time.sleep(0.05)
    assert not Path(f"/proc/{program}").exists()
    assert not Path(f"/proc/{warden}").exists()


def test_without_a_writable_temporary_folder_it_says_so(limits, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with pytest.raises(BadInputError, match="needs a writable temporary folder"), Sandbox(limits):
        pass


WITHOUT_FILES = """
from lorapar.evaluation.sandbox import find_layers, warden
real = find_layers.find_layers
import dataclasses
warden.find_layers = lambda: dataclasses.replace(real(), landlock=0, seccomp=False, namespaces=False, run_as=None)
"""


def weakened(monkeypatch) -> None:
    """A warden on a platform without Landlock and seccomp."""
    from lorapar.evaluation.sandbox import client

    start = client._START.replace("main()", WITHOUT_FILES.strip().replace("\n", "; ") + "; main()")
    monkeypatch.setattr(client, "_START", start)


def test_strict_refuses_what_the_platform_cannot_guarantee(limits, monkeypatch) -> None:
    weakened(monkeypatch)
    with pytest.raises(BadInputError, match=r"could .*open a socket.*execute\.sandbox=best_effort"), Sandbox(limits):
        pass


def test_best_effort_runs_with_what_there_is_and_says_what_is_missing(limits, monkeypatch) -> None:
    weakened(monkeypatch)
    with Sandbox(limits, "best_effort") as sandbox:
        assert sandbox.layers == ["rlimits", "no_new_privs"]
        assert {"open a socket", "read a file outside its scratch folder"} <= set(sandbox.gaps)
        assert set(sandbox.gaps) <= set(ATTEMPTS)
        assert sandbox.run("assert True").passed
        assert sandbox.run("while True: pass").status == "timed_out"
        # A second process is possible here; it does not outlive the program.
        outcome = sandbox.run("import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nassert True")
        assert outcome.status in {"passed", "timed_out"}
        children = Path(f"/proc/{sandbox._warden.pid}/task/{sandbox._warden.pid}/children").read_text()
        assert children == ""


UNPRIVILEGED = """
import json, sys
from lorapar.evaluation.sandbox import Limits, Sandbox
limits, sources = json.load(sys.stdin)
with Sandbox(Limits(**limits)) as sandbox:
    outcomes = [sandbox.run(source.replace("@WARDEN@", str(sandbox._warden.pid))) for source in sources]
    print(json.dumps([sandbox.layers, [[outcome.status, outcome.detail] for outcome in outcomes]]))
"""
# As in a container with runAsUser: 10001, all capabilities dropped and allowPrivilegeEscalation: false.
_IDS = ("--reuid=10001", "--regid=10001", "--clear-groups")
SETPRIV = ("setpriv", *_IDS, "--bounding-set=-all", "--no-new-privs", "env", "-i")


def python_for_everybody() -> list[str]:
    """A command that starts an interpreter of this version, with these packages, as an unprivileged user."""
    if os.geteuid() != 0:
        pytest.skip("already without root: the other tests are this one")
    paths = [str(Path(lorapar.__file__).parents[1]), *(path for path in sys.path if path.endswith("site-packages"))]
    for python in (str(Path(sys.executable).resolve()), "/usr/bin/python3"):
        command = [*SETPRIV, f"PYTHONPATH={':'.join(paths)}", "PYTHONDONTWRITEBYTECODE=1", python]
        ask = [*command, "-c", "import sys, lorapar.evaluation; print(sys.version_info[:2])"]
        asked = subprocess.run(ask, capture_output=True, text=True, cwd="/")
        if asked.returncode == 0 and asked.stdout.strip() == str(tuple(sys.version_info[:2])):
            return command
    pytest.skip("neither this interpreter nor one of its version in /usr/bin is within an unprivileged user's reach")


def test_the_same_without_root_and_without_capabilities(limits, programs, target) -> None:
    command = python_for_everybody()
    sources = [target.fill(source, warden=None) for _, source in programs.values()]
    ran = subprocess.run(
        [*command, "-c", UNPRIVILEGED],
        input=json.dumps([dataclasses.asdict(limits), sources]),
        capture_output=True,
        text=True,
        timeout=240,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr
    layers, outcomes = json.loads(ran.stdout)
    assert {"seccomp", "no_new_privs", "rlimits"} <= set(layers)
    assert "user id of its own" not in layers
    ended = zip(programs.items(), outcomes, strict=True)
    assert not {name: outcome for (name, (expected, _)), outcome in ended if not ends_as(expected, *outcome)}
