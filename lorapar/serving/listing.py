"""/v1/models with the names that clients may use, in addition to the versions that vLLM knows."""

from __future__ import annotations

import json
from typing import Any

from lorapar.registry import PRODUCTION
from lorapar.serving.asgi import Message, Send, header, without
from lorapar.serving.routes import Routes


def with_aliases(routes: Routes, send: Send) -> Send:
    """A `send` that adds a card for each alias to vLLM's list; everything else passes unchanged."""
    begun: Message = {}
    parts = bytearray()

    async def adding(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = message
            return
        if message["type"] != "http.response.body":
            await send(message)
            return
        parts.extend(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = _added(bytes(parts), routes) if begun["status"] == 200 else bytes(parts)
        headers = [*without(begun["headers"], "content-length"), header("content-length", str(len(body)))]
        await send({**begun, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return adding


def _added(body: bytes, routes: Routes) -> bytes:
    try:
        listing = json.loads(body)
        known = {card["id"]: card for card in listing["data"]}
    except (ValueError, KeyError, TypeError):
        return body
    listing["data"] += [card for card in _cards(routes, known) if card["id"] not in known]
    return json.dumps(listing).encode()


def _cards(routes: Routes, known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One card for each alias: that of its version, with the version as `root`."""
    cards = []
    for reference, version in routes.aliases.items():
        model = f"{reference.name}@{version}"
        card = {**known.get(model, {"object": "model"}), "owned_by": "lorapar", "root": model}
        names = [str(reference)] + ([reference.name] if reference.alias == PRODUCTION else [])
        cards += [{**card, "id": name} for name in names]
    return cards
