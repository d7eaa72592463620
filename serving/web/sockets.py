"""WebSockets that read messages no faster than the application takes them."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_SLICE: Final = 1 << 10
"""Bytes that are parsed in one turn of the event loop: some hundred frames, one or two milliseconds."""
_AFTER_CLOSE: Final = 16 << 10
"""Bytes within which a client must answer a close; what it sent before arrives first."""


class BoundedSocket(WebSocketsSansIOProtocol):
    """Parses a little at a time: uvicorn parses up to 256 kB at once, which blocks the event loop for 160 ms."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty buffer."""
        self._unparsed = b""
        self._after_close = 0
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what the client sent before it left."""
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a little, and the rest after that was taken."""
        if not self.handshake_initiated:
            super().data_received(data)
            return
        if self.close_sent:
            self._after_close += len(data)
            if self._after_close > _AFTER_CLOSE:
                self.transport.abort()
                return
        self._unparsed += data
        if self.queue.empty() or self.close_sent:
            self._parse()

    def shutdown(self) -> None:
        """Close, unless the client has just closed: a second close by uvicorn is an error that ends its shutdown."""
        if self.transport.is_closing():
            self.transport.abort()
        else:
            super().shutdown()

    async def receive(self) -> Any:
        """The next message; reading resumes when all are taken."""
        if self.queue.empty():
            self._parse()
        message = await self.queue.get()
        if self.queue.empty() and not self._unparsed:
            self._read_on()
        return message

    def _parse(self) -> None:
        if self.transport.is_closing():
            self._unparsed = b""
            return
        if not self._unparsed:
            return
        data, self._unparsed = self._unparsed[:_SLICE], self._unparsed[_SLICE:]
        super().data_received(data)
        if self._unparsed and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
        if self.queue.empty() or self.close_sent:
            if self._unparsed:
                self.loop.call_soon(self._parse)
            else:
                self._read_on()

    def _read_on(self) -> None:
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()
