"""The contract of stages: what a call knows of the run it belongs to."""

from __future__ import annotations

import subprocess
import sys

from lorapar.stages.contract import NEVER_CACHED, STAGE_NAMES, Origin


def test_the_environment_says_which_run_and_which_images(monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_RUN", "runs/1234")
    monkeypatch.setenv("LORAPAR_IMAGES", "trainer=host/trainer@sha256:ab, vllm=host/vllm@sha256:cd")
    images = {"trainer": "host/trainer@sha256:ab", "vllm": "host/vllm@sha256:cd"}
    assert Origin.of_environment() == Origin("runs/1234", images)


def test_outside_a_pipeline_nothing_is_known(monkeypatch) -> None:
    for name in ("LORAPAR_RUN", "LORAPAR_IMAGES"):
        monkeypatch.delenv(name, raising=False)
    assert Origin.of_environment() == Origin()


def test_which_stages_are_cached_is_known_without_importing_them() -> None:
    """A short task such as `report` asks it of every stage; their modules take longer than what it does."""
    program = (
        "import sys\n"
        "from lorapar.stages.contract import STAGE_NAMES, is_cached\n"
        "print(*(name for name in STAGE_NAMES if not is_cached(name)))\n"
        "print(sorted(set(sys.modules) & {f'lorapar.stages.{name}' for name in STAGE_NAMES}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["plan publish gate promote report", "[]"]


def test_stages_that_always_run_are_stages() -> None:
    assert set(STAGE_NAMES) > NEVER_CACHED
