"""A mounted Secret becomes variables of the task's process, except for what is no credential."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorapar.kubeflow.executor import load_credentials


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """As the kubelet mounts one: files are links into a folder of the day, beside a link to that folder."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to(tmp_path / "..2026")
    return tmp_path


def put(secret: Path, name: str, text: str) -> None:
    (secret / "..2026" / name).write_text(text, encoding="utf-8")
    (secret / name).symlink_to(secret / "..data" / name)


def test_entries_become_variables_and_those_that_are_set_stay(secret, monkeypatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GATEWAY_KEY", "LORAPAR_S3_ACL"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "the pod's own")
    put(secret, "AWS_SECRET_ACCESS_KEY", "kept\n")
    put(secret, "GATEWAY_KEY", "a teacher's")
    put(secret, "HF_TOKEN", "another")
    put(secret, "LORAPAR_S3_ACL", "private")
    assert load_credentials(secret) == ["AWS_SECRET_ACCESS_KEY", "GATEWAY_KEY", "LORAPAR_S3_ACL"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "kept"
    assert os.environ["GATEWAY_KEY"] == "a teacher's"
    assert os.environ["HF_TOKEN"] == "the pod's own"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "HOME", "LORAPAR_RUN", "ca.crt", "lower"])
def test_nothing_that_decides_which_code_runs_is_taken(secret, monkeypatch, name) -> None:
    monkeypatch.delenv(name, raising=False)
    put(secret, name, "/evil.so")
    assert load_credentials(secret) == []
    assert name not in os.environ


def test_a_namespace_without_the_secret_is_nothing_to_say(tmp_path) -> None:
    assert load_credentials(tmp_path / "none") == []
