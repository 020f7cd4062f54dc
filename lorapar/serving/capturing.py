"""Keep a share of requests and answers, where the settings ask for it; a thread makes and writes the rows.

A request costs a digest of its id here, and its answer's bytes are kept until it has ended. A thread reads and redacts
them (`lorapar.capture.writer`); its failures appear in the log and in the metrics.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any, Literal

from lorapar.capture import Capture, CaptureWriter, Rules
from lorapar.capture.records import CapturedRequest, Feedback, Message
from lorapar.config.capture import CaptureConfig
from lorapar.errors import BadInputError
from lorapar.extras import pip_install
from lorapar.serving import metrics
from lorapar.serving.asgi import Scope, header_value, header_values
from lorapar.serving.assembled import assembled, texts_of
from lorapar.serving.routes import Served
from lorapar.serving.settings import CAPTURE, ServingSettings, capture_config
from lorapar.store import open_store

REQUEST_ID_HEADER = "x-request-id"
"""A header of every adapter's answer while capture is on: the id that a person gives to have the request deleted."""
CONSENT_HEADER = "x-lorapar-capture"
"""A header of a request or of feedback. `no`: do not keep it; `yes`: consent, where the settings ask for it."""
FEEDBACK = "/v1/feedback"
LONGEST_BYTES = 4 << 20
"""Limits of a request, and of an answer as the server sends it, where each token may be an event of 300 bytes."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,127}")
_YES = frozenset({"yes", "true", "on", "1"})
_WHOLE = frozenset({"stop", "length"})
"""Ends of answers that are kept; others broke off (`abort`, `error`, none) or call a tool."""
_COMPLETIONS = ("/chat/completions", "/completions")


@dataclass(frozen=True)
class Exchange:
    """An answered request, with the bytes of question and answer."""

    request_id: str
    served: Served
    endpoint: Literal["chat", "completion"]
    request: Mapping[str, Any]
    answer: bytes
    ended: datetime


@dataclass(frozen=True)
class Remark:
    """Feedback about an answer, as it arrived."""

    request_id: str
    good: bool | None
    answer: str | None
    given: datetime


@dataclass(frozen=True)
class Taken:
    """A request that is being answered."""

    request_id: str
    kept_bytes: int
    """The longest answer that is kept; 0: the request is not in the share, or must not be kept."""
    body_bytes: int = 0


class Capturing:
    """The capture of one server."""

    def __init__(self, config: CaptureConfig, capture: Capture) -> None:
        self.config = config
        self._rules = Rules.of(config)
        self.writer: CaptureWriter[Exchange | Remark] = CaptureWriter(capture, config, self._row, self._count)

    @classmethod
    def of(cls, settings: ServingSettings) -> Capturing | None:
        """None where the settings ask for no capture; raises BadInputError for wrong settings."""
        if not settings.capture:
            return None
        config = capture_config(settings)
        lacking = [name for name in ("pyarrow", "regex") if find_spec(name) is None]
        if lacking:
            raise BadInputError(f"{CAPTURE}: needs the package {lacking[0]}: {pip_install('serve')}")
        return cls(config, Capture(open_store(config.address or settings.registry), config.name))

    def take(self, scope: Scope, served: Served, body_bytes: int) -> Taken:
        """Give a request its id, and decide whether to keep it: equally on every replica for the same id."""
        given = header_value(scope, REQUEST_ID_HEADER) or ""
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        wanted = scope["path"].rstrip("/").endswith(_COMPLETIONS) and self._is_of(served)
        if not wanted or not in_share(request_id, self.config.share):
            return Taken(request_id, 0)
        if not self._consents(scope):
            self._count("not_consented", 1)
            return Taken(request_id, 0)
        if body_bytes > LONGEST_BYTES:
            self._count("too_long", 1)
            return Taken(request_id, 0)
        return Taken(request_id, LONGEST_BYTES, body_bytes)

    def see(self, taken: Taken, served: Served, scope: Scope, request: Mapping[str, Any], answer: bytes | None) -> None:
        """Pass a request that has ended to the thread; keeps nothing without a complete, successful answer."""
        if not taken.kept_bytes:
            return
        if answer is None:
            self._count("no_answer", 1)
            return
        chat = scope["path"].rstrip("/").endswith(_COMPLETIONS[0])
        kind: Literal["chat", "completion"] = "chat" if chat else "completion"
        exchange = Exchange(taken.request_id, served, kind, request, answer, datetime.now(UTC))
        self.writer.offer(exchange, len(answer) + taken.body_bytes)

    def remark(self, scope: Scope, body: Mapping[str, Any]) -> str | None:
        """Take feedback about an answer; returns what is wrong with it, in one line.

        It follows the same share and consent as a request: a better answer is a text like any other.
        """
        request_id, good, answer = body.get("request_id"), body.get("good"), body.get("answer")
        if not isinstance(request_id, str) or not _ID.fullmatch(request_id):
            return f"request_id: must be the {REQUEST_ID_HEADER} of an answer"
        if not isinstance(good, bool | None) or not isinstance(answer, str | None):
            return "good: must be true or false, and answer a text"
        if good is None and not (answer or "").strip():
            return "good: is missing; say true or false, or give a better answer"
        if len(answer or "") > LONGEST_BYTES:
            return "answer: is too long"
        if not in_share(request_id, self.config.share):
            return None
        if self._consents(scope):
            remark = Remark(request_id, good, (answer or "").strip() or None, datetime.now(UTC))
            self.writer.offer(remark, 4 * len(answer or "") + 200)
        else:
            self._count("not_consented", 1)
        return None

    def _is_of(self, served: Served) -> bool:
        wanted = self.config.adapters
        return not wanted or served.name in wanted or f"{served.name}@{served.alias}" in wanted

    def _consents(self, scope: Scope) -> bool:
        """Whether a request may be kept. Any value except yes means no; of several values, one no decides."""
        consents = header_values(scope, CONSENT_HEADER)
        return all(one.lower() in _YES for one in consents) if consents else self.config.consent == "opt_out"

    def _count(self, outcome: str, number: int) -> None:
        metrics.CAPTURED.labels(self.config.name, outcome).inc(number)

    def _row(self, item: Exchange | Remark) -> CapturedRequest | Feedback | None:
        """The thread's work: read and redact; None where there is nothing to keep."""
        if isinstance(item, Remark):
            return self._feedback(item)
        messages, answer = texts_of(item.request, item.endpoint), assembled(item.answer)
        if messages is None or answer is None or not answer.text.strip():
            self._count("not_text", 1)
            return None
        if answer.finish_reason not in _WHOLE:
            self._count("no_answer", 1)
            return None
        return self._request(item, messages, answer.text, answer.finish_reason)

    def _feedback(self, item: Remark) -> Feedback:
        answer, found = self._rules.redact(_storable(item.answer or ""))
        self._redacted(found)
        return Feedback(
            request_id=item.request_id,
            captured_at=item.given,
            good=item.good,
            answer=answer or None,
            redacted=sum(found.values()),
        )

    def _request(
        self, item: Exchange, messages: list[tuple[str, str]], text: str, ended: str | None
    ) -> CapturedRequest:
        user = item.request.get("user") if self.config.keep_user else None
        texts = [*(content for _, content in messages), text, *([str(user)] if user else [])]
        redacted = [self._rules.redact(_storable(one)) for one in texts]
        found: dict[str, int] = {}
        for _, counts in redacted:
            for name, count in counts.items():
                found[name] = found.get(name, 0) + count
        self._redacted(found)
        clean = [one for one, _ in redacted]
        return CapturedRequest(
            request_id=item.request_id,
            captured_at=item.ended,
            adapter=item.served.name,
            version=item.served.version,
            alias=item.served.alias,
            endpoint=item.endpoint,
            messages=tuple(Message(role=role, content=one) for (role, _), one in zip(messages, clean, strict=False)),
            answer=clean[len(messages)],
            finish_reason=ended,
            user=clean[len(messages) + 1] if user else None,
            redacted=sum(found.values()),
            redacted_by=found,
        )

    def _redacted(self, found: Mapping[str, int]) -> None:
        for name, count in found.items():
            metrics.CAPTURE_REDACTIONS.labels(self.config.name, name).inc(count)


def _storable(text: str) -> str:
    """The text as valid UTF-8: JSON may hold half a surrogate pair, which no file takes."""
    return text.encode("utf-8", "replace").decode()


def in_share(request_id: str, share: float) -> bool:
    """Whether a request is in the share: equally on every replica, and a larger share contains every smaller one."""
    digest = hashlib.sha256(f"capture\n{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
