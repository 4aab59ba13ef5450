"""uvicorn's connection, with the limits that it leaves to a proxy: idle and slow clients, endless headers."""

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX: Final = 32 * 1024
"""Request line and headers."""
CONNECTIONS_SPARE: Final = 100
"""So many above the limit are answered with status 503, further ones are closed unheard."""


class GatewayProtocol(HttpToolsProtocol):
    """One connection.  Its limits are class variables (`limited`), because uvicorn makes the object."""

    idle_seconds: ClassVar[float]
    connections_max: ClassVar[int]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._giving_up: asyncio.TimerHandle | None = None
        if len(self.connections) > self.connections_max + CONNECTIONS_SPARE:
            transport.abort()
            return
        self._give_up_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._do_not_give_up()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._giving_up is None:
            self._give_up_later()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["nextclick.transport"] = self.transport
        scope["nextclick.is_crowded"] = len(self.connections) > self.connections_max

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._do_not_give_up()
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError("too many headers")  # the parser stops, and uvicorn answers 400

    def _give_up_later(self) -> None:
        self._giving_up = self.loop.call_later(self.idle_seconds, self._give_up)

    def _do_not_give_up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        self.transport.close()


def limited(*, idle_seconds: float, connections_max: int) -> type[GatewayProtocol]:
    """The protocol with these limits."""
    limits = {"idle_seconds": idle_seconds, "connections_max": connections_max}
    return type("LimitedProtocol", (GatewayProtocol,), limits)
