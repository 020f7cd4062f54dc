"""Responses of a model, kept as they come, so that a killed benchmark asks only what is missing.

lm-eval has such a cache, but it is a database of pickles; this one is JSON Lines. It takes the place of the database in
lm-eval's own CachingLM, which sorts out what is left to ask.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM, CachingLM

from lorapar.evaluation.cache import RememberedModel
from lorapar.ranks import Ranks
from lorapar.records import recover_lines


class Journal:
    """By a digest of its request, a response; a line that was cut off by a kill is dropped and asked again.

    What the model is known to have answered in earlier runs comes from `known`, and what it answers now goes there.
    """

    def __init__(self, path: Path, on_add: Callable[[], None], known: RememberedModel | None = None) -> None:
        self._path, self._on_add, self._known = path, on_add, known
        self.recalled = 0
        """Responses that were known."""
        self._responses: dict[str, Any] = {}
        self.seconds = 0.0
        """Time that the responses took, from each to the next."""
        for digest, response, seconds in recover_lines(path, _entry):
            self._keep(digest, response, seconds)
        self._last = time.monotonic()
        self._unsent: list[tuple[str, Any, float]] = []
        self._recalled_sent = 0

    def take_in(self, path: Path) -> None:
        """What another process has kept by now; it stays where it is."""
        for digest, response, seconds in recover_lines(path, _entry, fix=False):
            self._keep(digest, response, seconds)

    def take_new(self) -> str:
        """Entries that are new since the last call, for the journals of other processes."""
        new = json.dumps({"recalled": self.recalled - self._recalled_sent, "entries": self._unsent})
        self._unsent, self._recalled_sent = [], self.recalled
        return new

    def merge(self, new: str) -> None:
        """Take over what `take_new` gave in another process."""
        document = json.loads(new)
        self.recalled += document["recalled"]
        self._recalled_sent += document["recalled"]
        for digest, response, seconds in document["entries"]:
            if self._keep(digest, response, seconds):
                self._on_add()

    def __len__(self) -> int:
        return len(self._responses)

    def __contains__(self, digest: str) -> bool:
        """Whether the response is here, or is known and is put here."""
        if digest not in self._responses and self._known is not None:
            (found,) = self._known.recall([digest])
            if found is not None:
                self.recalled += 1
                self._append(digest, found["response"], found["seconds"])
        return digest in self._responses

    def __getitem__(self, digest: str) -> Any:
        return self._responses[digest]

    def __setitem__(self, digest: str, response: Any) -> None:
        """Keep a response, on disk first; lm-eval names each twice."""
        if digest in self._responses:
            return
        seconds, self._last = time.monotonic() - self._last, time.monotonic()
        self._append(digest, response, seconds)
        if self._known is not None:
            self._known.keep(digest, {"response": response, "seconds": seconds})

    def start_clock(self) -> None:
        """What is asked next is asked now."""
        self._last = time.monotonic()

    def commit(self) -> None:
        """Nothing: every line is on disk already."""

    def _append(self, digest: str, response: Any, seconds: float) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"request": digest, "response": response, "seconds": seconds}) + "\n")
        self._keep(digest, response, seconds)
        self._unsent.append((digest, response, seconds))
        self._on_add()

    def _keep(self, digest: str, response: Any, seconds: float) -> bool:
        """Whether it is new."""
        if digest in self._responses:
            return False
        self._responses[digest] = tuple(response) if isinstance(response, list) else response
        self.seconds += seconds
        return True


def _entry(line: bytes) -> tuple[str, Any, float]:
    entry = json.loads(line)
    return entry["request"], entry["response"], entry["seconds"]


class RememberingLM(CachingLM):  # type: ignore[misc]
    """A language model of lm-eval whose responses go into a journal, and come from there where they are known.

    Of several processes each asks its model a part of the requests, and all have every response.
    """

    def __init__(self, model: LM, journal: Journal) -> None:
        # Not CachingLM's own: that opens the database of pickles.
        self.lm, self.cache_db, self.dbdict = model, str(journal), journal
        model.set_cache_hook(self.get_cache_hook())

    def __getattr__(self, name: str) -> Any:
        """As CachingLM's, which answers the three kinds of requests, and hands on all else."""
        ask, ranks = super().__getattr__(name), Ranks.here()
        if ranks.count == 1 or name not in _KINDS:
            return ask

        def shared(requests: list[Any]) -> list[Any]:
            # By place and not by what is missing, on which the processes may differ. A part is in one piece, because
            # the choices of a row are computed together. What is drawn at random is not kept, so nothing is shared.
            if not any(_is_drawn(one) for one in requests):
                size = -(-len(requests) // ranks.count)
                ask(requests[ranks.rank * size : (ranks.rank + 1) * size])
                for rank, new in enumerate(ranks.texts(self.dbdict.take_new())):
                    if rank != ranks.rank:
                        self.dbdict.merge(new)
            return ask(requests)  # type: ignore[no-any-return]

        return shared


_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def _is_drawn(request: Any) -> bool:
    return any(isinstance(one, dict) and one.get("do_sample", False) for one in request.args)
