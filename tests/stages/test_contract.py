"""The contract of stages: what a call knows of the run it belongs to."""

from __future__ import annotations

from lorapar.stages.contract import Origin


def test_the_environment_says_which_run_and_which_images(monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_RUN", "runs/1234")
    monkeypatch.setenv("LORAPAR_IMAGES", "trainer=host/trainer@sha256:ab, vllm=host/vllm@sha256:cd")
    images = {"trainer": "host/trainer@sha256:ab", "vllm": "host/vllm@sha256:cd"}
    assert Origin.of_environment() == Origin("runs/1234", images)


def test_outside_a_pipeline_nothing_is_known(monkeypatch) -> None:
    for name in ("LORAPAR_RUN", "LORAPAR_IMAGES"):
        monkeypatch.delenv(name, raising=False)
    assert Origin.of_environment() == Origin()
