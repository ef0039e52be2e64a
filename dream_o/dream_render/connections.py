"""Bounds on the connections of the form endpoint, whose clients are not trusted."""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# A client that has sent no whole head of a request by then is disconnected.
HEAD_SECONDS = 10.0
CHECK_SECONDS = 1.0
# More open connections are closed at once. The limit must be larger than the number of connections
# that get a 503, so that this many clients can be told why.
MAX_OPEN = 200
# Open files that are not connections: the log, the event loop, libraries.
OTHER_FILES = 32


def most_open() -> int:
    """The number of connections that may be open, at most MAX_OPEN.

    Each request needs two open files: its own connection and the one to the Cog server. Without
    this limit, a process that runs out of files logs a traceback for each connection it refuses.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_OPEN, (files - OTHER_FILES) // 2))


class BoundedConnection(H11Protocol):
    """Uvicorn's HTTP/1.1, without connections that send no request.

    Uvicorn alone limits only the time between two requests of a connection.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Closes the connection at once if too many are open; otherwise watches it."""
        super().connection_made(transport)
        if len(self.connections) > most_open():
            transport.abort()
            return
        self._waiting_since = self.loop.time()
        self._check: Any = self.loop.call_later(CHECK_SECONDS, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = self.loop.time()
        elif self.loop.time() - self._waiting_since > HEAD_SECONDS:
            self.transport.abort()
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._close_if_waiting)
