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
    """asyncio's loop, but that each name is looked up in a thread of its own that nothing waits for."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """See `socket.getaddrinfo`."""
        found: asyncio.Future[Any] = self.create_future()

        def tell(outcome: Any) -> None:
            if found.done():
                return
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

        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        return await found
