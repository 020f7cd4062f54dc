"""Keep a share of requests and answers, where the settings ask for it; the thread behind makes and writes the rows.

What a request costs here: a digest of its id, and the bytes of its answer kept until it has ended. Reading and
redacting them is the thread's work (`lorapar.capture.writer`), and whatever fails there is a line in the log and a
number in the metrics.
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
"""In the answer to every request of an adapter while capture is on: what a person names who wants it deleted."""
CONSENT_HEADER = "x-lorapar-capture"
"""`no` in a request or in feedback: it is not kept; `yes`: it may be, where the settings ask for consent."""
FEEDBACK = "/v1/feedback"
LONGEST_BYTES = 4 << 20
"""Of a request, and of an answer as the server sends it, whose every token may be an event of 300 bytes."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,127}")
_YES = frozenset({"yes", "true", "on", "1"})
_WHOLE = frozenset({"stop", "length"})
"""How an answer ends that is kept; others were broken off (`abort`, `error`, none at all) or call something."""
_COMPLETIONS = ("/chat/completions", "/completions")


@dataclass(frozen=True)
class Exchange:
    """A request that was answered, as it came and went."""

    request_id: str
    served: Served
    endpoint: Literal["chat", "completion"]
    request: Mapping[str, Any]
    answer: bytes
    ended: datetime


@dataclass(frozen=True)
class Remark:
    """What a person said of an answer, as it came."""

    request_id: str
    good: bool | None
    answer: str | None
    given: datetime


@dataclass(frozen=True)
class Taken:
    """A request while it is answered."""

    request_id: str
    kept_bytes: int
    """Longest answer that is kept; 0: it does not belong to the share, or is not to be kept."""
    body_bytes: int = 0


class Capturing:
    """The capture of one server."""

    def __init__(self, config: CaptureConfig, capture: Capture) -> None:
        self.config = config
        self._rules = Rules.of(config)
        self.writer: CaptureWriter[Exchange | Remark] = CaptureWriter(capture, config, self._row, self._count)

    @classmethod
    def of(cls, settings: ServingSettings) -> Capturing | None:
        """None where the settings name none; raises BadInputError for what is wrong with them."""
        if not settings.capture:
            return None
        config = capture_config(settings)
        lacking = [name for name in ("pyarrow", "regex") if find_spec(name) is None]
        if lacking:
            raise BadInputError(f"{CAPTURE}: needs the package {lacking[0]}: {pip_install('serve')}")
        return cls(config, Capture(open_store(config.address or settings.registry), config.name))

    def take(self, scope: Scope, served: Served, body_bytes: int) -> Taken:
        """Give a request its id, and decide whether it is kept: the same on every replica for the same id."""
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
        """Hand a request that has ended to the thread; without a whole, good answer nothing is kept of it."""
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
        """Take what a person says of an answer; returns what is wrong with it, in one line.

        It is kept by the same share and the same consent as a request: a better answer is a text like any other.
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
        """Anything but a yes is a no: who sends the header has an opinion. Of several, one that is a no decides."""
        consents = header_values(scope, CONSENT_HEADER)
        return all(one.lower() in _YES for one in consents) if consents else self.config.consent == "opt_out"

    def _count(self, outcome: str, number: int) -> None:
        metrics.CAPTURED.labels(self.config.name, outcome).inc(number)

    def _row(self, item: Exchange | Remark) -> CapturedRequest | Feedback | None:
        """The thread's work: read, redact; None where there is nothing to keep."""
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
    """The text as UTF-8 can hold it: JSON may name half a surrogate pair, which no file takes."""
    return text.encode("utf-8", "replace").decode()


def in_share(request_id: str, share: float) -> bool:
    """Whether a request belongs to the share: the same everywhere, and a larger share holds every smaller one."""
    digest = hashlib.sha256(f"capture\n{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
