"""The ASGI middleware of a vLLM server: turns names and aliases into versions, and names the version in a header.

    --middleware lorapar.serving.middleware.AdapterMiddleware

It runs before the rest of the server, so it also closes the endpoints that change what is loaded. A request never waits
for the registry: aliases are followed in a separate task.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

from lorapar.registry import Registry
from lorapar.serving.answer_reward import LONGEST_ANSWER_BYTES, AnswerReward
from lorapar.serving.answering import Answering
from lorapar.serving.asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    answer_error,
    answer_json,
    header,
    header_value,
    replayed,
    whole_body,
    without,
)
from lorapar.serving.base_identity import ServedBase
from lorapar.serving.cache import AdapterCache
from lorapar.serving.capturing import FEEDBACK, REQUEST_ID_HEADER, Capturing
from lorapar.serving.engine import MODELS, Engine, is_admin
from lorapar.serving.follower import AliasFollower
from lorapar.serving.listing import with_aliases
from lorapar.serving.loader import Loader
from lorapar.serving.routes import NotLoadedError, NotServedError, Routes, Served
from lorapar.serving.settings import ServingSettings, settings_from
from lorapar.serving.traffic import Traffic
from lorapar.store import open_store

KEY_HEADER = "x-lorapar-key"
"""A header whose equal values get the same side of a canary; without it the field `user` decides, else chance."""
# SageMaker's header that names an adapter: vLLM copies it into the body behind this middleware.
_OTHER_MODEL_HEADER = "x-amzn-sagemaker-adapter-identifier"


class AdapterMiddleware:
    """The class that `--middleware` names; vLLM makes one instance and calls it for every connection."""

    def __init__(self, app: App, settings: ServingSettings | None = None) -> None:
        self.app = app
        self.settings = settings or settings_from()
        self.engine = Engine(app)
        self.traffic = Traffic()
        self.reward = AnswerReward.of(self.settings)
        self.capture = Capturing.of(self.settings)
        self.follower: AliasFollower | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, or the life of the server."""
        self.engine.meet(scope)
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    @property
    def routes(self) -> Routes:
        """Which version each name means now."""
        return self.follower.routes if self.follower else Routes()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                if self.capture:
                    self.capture.writer.start()
                await self._begin(self.settings.startup_seconds)
            elif message["type"].startswith("lifespan.shutdown"):
                await self._end()  # now: at this message uvicorn ends the process, finished or not
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            await self._end()

    async def _end(self) -> None:
        """Write captured rows, once."""
        if self._task:
            self._task.cancel()
        if self.capture and not self._ended:
            self._ended = True
            await asyncio.to_thread(self.capture.writer.close)

    async def _begin(self, wait_seconds: float) -> None:
        """Start following aliases; wait for the first adapters, but not for a registry that does not answer."""
        if self.follower is None:
            registry = Registry(open_store(self.settings.registry))
            model = self.engine.base_model
            base = ServedBase(self.settings.base_model or model, self.settings.base_digest, model, self.engine.revision)
            cache = AdapterCache(registry, self.settings.cache, base)
            loader = Loader(cache, self.engine, self.traffic, self.settings.poll_seconds)
            self.follower = AliasFollower(self.settings, registry, loader)
            self._task = asyncio.create_task(self.follower.run())
        if wait_seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.follower.synced.wait(), wait_seconds)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if is_admin(path):
            await answer_error(send, 403, f"{path} is closed: adapters come from the registry, by their aliases")
            return
        await self._begin(0)
        if scope["method"] == "POST" and _is_json(scope) and self.engine.lets_in(scope):
            remark = self.capture is not None and path.rstrip("/").endswith(FEEDBACK)
            await (self._remark(scope, receive, send) if remark else self._post(scope, receive, send))
        elif scope["method"] == "GET" and path.rstrip("/").endswith(MODELS):
            await self.app(scope, receive, with_aliases(self.routes, send))
        else:
            await self.app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole_body(receive)
        if body is None:
            return
        request = _object(body)
        asked = header_value(scope, _OTHER_MODEL_HEADER) or request.get("model")
        try:
            key = header_value(scope, KEY_HEADER) or str(request.get("user") or uuid.uuid4())
            served = self.routes.choose(str(asked or ""), self.settings.references, key)
        except NotServedError as error:
            await self._refuse(send, error)
            return
        if served is None:
            await self.app(scope, replayed(body, receive), send)
            return
        extra = self._extra_stops(scope, request, served.name)
        if served.model != asked or extra:
            body = json.dumps({**request, **extra, "model": served.model}).encode()
        taken = self.capture.take(scope, served, len(body)) if self.capture else None
        named = [header(REQUEST_ID_HEADER, taken.request_id)] if taken else []
        replaced = ["content-length", _OTHER_MODEL_HEADER, *([REQUEST_ID_HEADER] if taken else [])]
        headers = [*without(scope["headers"], *replaced), header("content-length", str(len(body))), *named]
        judged = served.judged and self.reward is not None and self.reward.takes()
        kept_bytes = max(LONGEST_ANSWER_BYTES if judged else 0, taken.kept_bytes if taken else 0)
        answering = Answering(served, receive, send, kept_bytes=kept_bytes, headers=named)
        with self.traffic.through(served.model):
            try:
                await self.app({**scope, "headers": headers}, replayed(body, answering.receive), answering.send)
            finally:
                self._look(answering, served, request, judged=judged)
                if self.capture and taken:
                    self.capture.see(taken, served, scope, request, answering.answer)

    def _look(self, answering: Answering, served: Served, request: dict[str, Any], *, judged: bool) -> None:
        """Pass an answer that has ended to the canary's guard."""
        outcome = answering.finish()
        if not served.judged or not self.follower or not outcome:
            return
        self.follower.judge(served, outcome)
        answer = answering.answer
        if judged and self.reward and answer and len(answer) <= LONGEST_ANSWER_BYTES:
            self.reward.see(request, answer, partial(self.follower.judge, served))

    async def _remark(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Feedback about an answer, by the request's id."""
        body = await whole_body(receive)
        if body is None or self.capture is None:
            return
        wrong = self.capture.remark(scope, _object(body))
        if wrong is not None:
            await answer_error(send, 400, wrong)
        else:
            await answer_json(send, 202, {"object": "feedback"})

    def _extra_stops(self, scope: Scope, request: dict[str, Any], name: str) -> dict[str, Any]:
        """Add what ends an answer to a request, because vLLM 0.32 has no setting for it.

        Keeps a client's own stops; a request with `ignore_eos` gets none.
        """
        if not self.follower or request.get("ignore_eos") or not scope["path"].rstrip("/").endswith("/completions"):
            return {}
        ends = self.follower.ends(name)
        ids, texts = request.get("stop_token_ids") or [], request.get("stop") or []
        texts = [texts] if isinstance(texts, str) else texts
        extra: dict[str, Any] = {}
        if ends.token_ids and isinstance(ids, list):
            extra["stop_token_ids"] = sorted({*ids, *ends.token_ids})
        if ends.strings and isinstance(texts, list):
            extra["stop"] = list(dict.fromkeys([*texts, *sorted(ends.strings)]))
        return extra

    async def _refuse(self, send: Send, error: NotServedError) -> None:
        if isinstance(error, NotLoadedError):
            wait = header("retry-after", str(max(1, round(self.settings.poll_seconds))))
            await answer_error(send, 503, str(error), [wait])
        else:
            await answer_error(send, 404, str(error))


def _is_json(scope: Scope) -> bool:
    return (header_value(scope, "content-type") or "").partition(";")[0].strip().lower() == "application/json"


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else, which the server behind then refuses itself."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # the latter from a hundred thousand nested brackets
        return {}
    return found if isinstance(found, dict) else {}
