"""An event loop that a look-up of a name cannot hold up: one that hangs is left behind.

asyncio looks names up in threads of a pool, and a process does not end before they have: a name server that does not
answer would hold up SIGTERM and the end of a stage for as long as the system keeps trying.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any


class EndpointLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, but that a name is looked up in a thread that nothing waits for: one thread for all who ask."""

    def __init__(self) -> None:
        super().__init__()
        self._looked_up: dict[Any, asyncio.Future[Any]] = {}

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """See `socket.getaddrinfo`."""
        asked = (host, port, *sorted(options.items()))
        if asked not in self._looked_up:
            self._looked_up[asked] = self._begin(asked, host, port, options)
        return await asyncio.shield(self._looked_up[asked])

    def _begin(self, asked: Any, host: Any, port: Any, options: dict[str, Any]) -> asyncio.Future[Any]:
        found: asyncio.Future[Any] = self.create_future()

        def tell(outcome: Any) -> None:
            del self._looked_up[asked]
            if isinstance(outcome, Exception):
                found.set_exception(outcome)
            else:
                found.set_result(outcome)

        def look_up() -> None:
            outcome: Any
            try:
                outcome = socket.getaddrinfo(host, port, **options)
            except Exception as error:
                outcome = error
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                self.call_soon_threadsafe(tell, outcome)

        try:
            threading.Thread(target=look_up, name="look-up", daemon=True).start()
        except RuntimeError as error:  # no thread can be had
            raise OSError(f"{host} cannot be looked up: {error}") from None
        return found
