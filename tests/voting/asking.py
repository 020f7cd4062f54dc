"""Asks a teacher behind the tests' API about a few rows."""

from __future__ import annotations

import pytest

from lorapar.config import TeacherConfig, TeacherTemplate
from lorapar.errors import BadInputError, UnreachableError
from lorapar.records import Example
from lorapar.voting.endpoint_teacher import EndpointTeacher
from tests.voting.api_server import MODEL

TEMPLATE = TeacherTemplate(label_words={"system1": "fact", "system2": "maths"})
ROWS = [Example(id=f"r{number}", question="why " * number + "?", answer="So.") for number in range(8)]


def ask(api, lines=None, endpoint=None, rows=ROWS, environment=None, **options):
    options = {"timeout_seconds": 5.0, "concurrency": 3, "attempts": 3, "max_wait_seconds": 0.05, **options}
    settings = TeacherConfig(
        name="t", backend="openai", endpoint=endpoint or api.address, model=MODEL, template=TEMPLATE, openai=options
    )
    teacher = EndpointTeacher(
        settings,
        target="Tiny",
        role_play=True,
        environment=environment or {},
        log=lines.append if lines is not None else lambda line: None,
    )
    try:
        return {vote.example_id: vote for vote in teacher.votes(rows)}
    finally:
        teacher.close()


def refusal(api, **settings) -> str:
    with pytest.raises((BadInputError, UnreachableError)) as caught:
        ask(api, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows_of(api):
    """Bodies of the requests about rows."""
    return api.asked("Tiny")


def asked_at(api):
    """Where answers were asked for, beside what only vLLM's server has."""
    return [path for path in api.paths if "tokenize" not in path]
