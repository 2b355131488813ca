"""Connections that are closed if the head of a request does not arrive in time.

uvicorn's own timer runs between an answer and the first byte that follows it: a connection that sends
nothing, or half a head, stays open for ever. Here such a connection is closed `timeout_s` after it began to
wait, however slowly bytes drip in. The gate has the same limit for bodies.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def timed_protocol(timeout_s: float) -> type[asyncio.Protocol]:
    """Return the protocol of a server whose heads must arrive within `timeout_s` seconds."""

    class TimedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the timer if no request is being answered, and stop it if one is."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(timeout_s, self.transport.close)

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return TimedProtocol
