"""The real vLLM on the CPU, with the tiny model in float32: in this process, and as a server beside it.

These tests run in the environment of `make vllm-env`; `make integration-vllm` sets that up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

# Read when vLLM is imported.
os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    HF_HUB_OFFLINE="1",
)

import pytest

from lorapar.config import ModelConfig, TeacherConfig, TeacherTemplate
from lorapar.progress import Silent
from lorapar.records import Example, Vote
from lorapar.voting.backends import Backends
from tests.integration.vllm.server import Server

pytest.importorskip("vllm", reason="vLLM is not installed here; `make integration-vllm` runs this in its environment")

BASE = ModelConfig(name="builtin:tiny", dtype="float32", description="a tiny model")
FEW_SHOT = (
    {"question": "Capital of France?", "answer": "Paris", "system": "system1"},
    {"question": "3+4-2?", "answer": "5", "system": "system2"},
)
TEXTS = ("a", "{b}", "Zürich", "4", "five", "6 7", "\n8")
ROWS = [
    Example(id=f"r{number}", question="why {so} " * (number % 13) + f"{number}?", answer=TEXTS[number % len(TEXTS)])
    for number in range(64)
]


class Kit:
    """What these tests share, because test files cannot import each other."""

    BASE = BASE
    ROWS = ROWS

    @staticmethod
    def template(style: str, first: str, second: str, **changes) -> TeacherTemplate:
        """A template with these label words; several tokens each where they are several bytes."""
        words = {"system1": first, "system2": second}
        return TeacherTemplate(style=style, label_words=words, few_shot=FEW_SHOT, **changes)

    @staticmethod
    def by_transformers(template: TeacherTemplate, rows=ROWS) -> dict[str, Vote]:
        """Votes of the transformers backend on the same model."""
        with Backends(BASE, role_play=True, progress=Silent()) as backends:
            teacher = backends.open(TeacherConfig(name="t", dtype="float32", template=template))
            return {vote.example_id: vote for vote in teacher.votes(rows)}


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture(scope="session")
def engines() -> Iterator[Backends]:
    """Teachers on one running engine."""
    with Backends(BASE, role_play=True, progress=Silent()) as backends:
        yield backends


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM's own OpenAI server."""
    running = Server(BASE, tmp_path_factory.mktemp("vllm"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
