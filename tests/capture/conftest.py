"""A capture in a store, with requests of two days."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lorapar.capture import Capture
from lorapar.capture.records import CapturedRequest, Message
from lorapar.store import open_store

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def asked(
    request_id: str, question: str = "What is 2 plus 3?", answer: str = "5", day: int = 20, **more: object
) -> CapturedRequest:
    """A request of November 2026."""
    values = {
        "request_id": request_id,
        "captured_at": datetime(2026, 11, day, 9, 30, tzinfo=UTC),
        "adapter": "task",
        "version": 1,
        "alias": "production",
        "endpoint": "chat",
        "messages": (Message(role="user", content=question),),
        "answer": answer,
        "finish_reason": "stop",
        **more,
    }
    return CapturedRequest.model_validate(values)


@pytest.fixture
def capture(tmp_path):
    return Capture(open_store(tmp_path / "store"), "support")
