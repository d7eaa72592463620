"""uvicorn, tuned to what it serves here: small answers, and streams that would never end by themselves."""

import asyncio
import logging
import os
import resource
import socket
import sys
import threading
from types import FrameType
from typing import Any, ClassVar, Final, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serving.web.answers import Error
from serving.web.application import App

MAX_HEAD: Final = 16 << 10
_PACKET: Final = 1 << 16
_OWN_FILES: Final = 128
_LAST_SECONDS: Final = 4.0
_LOG: Final = logging.getLogger("serving")


def _connection_limit() -> int:
    """As many as there are descriptors, less those that the server needs itself."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(descriptors, 8192) - _OWN_FILES)


class Server(uvicorn.Server):
    """A server on one listening socket that says where it is, and whose streams end when it is told to stop."""

    def __init__(self, app: App, url: str) -> None:
        config = uvicorn.Config(
            app.asgi,
            loop="uvloop",
            http=BoundedProtocol,
            ws="websockets-sansio",
            ws_per_message_deflate=False,  # frames are 150 bytes: it costs more than it saves
            ws_max_size=4096,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._app = app
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        sys.stdout.write(f"{self._url}  (Ctrl-C stops)\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; what hangs in a thread then, and would be waited for, is left behind."""
        super().handle_exit(sig, frame)
        last_resort = threading.Timer(_LAST_SECONDS, _leave, [sig])
        last_resort.daemon = True
        last_resort.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn waits for connections, and a stream would never end by itself."""
        self._app.close()
        for connection in list(self.server_state.connections):
            # uvicorn would close a WebSocket that its peer has just closed: an error, with which it stops half-way.
            if isinstance(connection, WebSocketsSansIOProtocol) and connection.transport.is_closing():
                connection.transport.abort()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def _leave(sig: int) -> None:
    _LOG.warning("something still hangs %g s after the signal to stop; the process ends without it", _LAST_SECONDS)
    os._exit(128 + sig)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP with bounds on a request's head and on connections, whose answers leave in one piece.

    uvicorn writes an answer's head and its body apart, and uvloop makes of each a system call, a packet, and a
    client that wakes up and asks for the processor: a seventh of the time of a short request.
    """

    head_seconds: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = _connection_limit()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own is
        """Put the gathering transport between uvicorn and the socket; one connection too many is told so."""
        super().connection_made(cast("asyncio.Transport", _GatheringTransport(transport, self.loop)))
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.max_connections:
            self._refuse(503, f"{self.max_connections} connections are open already: try again in a second")
            return
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer too."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete: a parser holds an unfinished field back."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._refuse(431, f"a request's head may have at most {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        super().on_message_begin()
        self._head_bytes, self._in_head = 0, True
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def on_headers_complete(self) -> None:
        """Begin the request if its head is not too long."""
        self._stop_timer()
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._refuse(431, f"a request's head may have at most {MAX_HEAD} bytes")
            raise ValueError("head too long")  # ends the parsing
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as everything is refused here: in JSON."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    def handle_websocket_upgrade(self) -> None:
        """Frames come in one piece already: they go to the socket itself."""
        self.transport = cast("_GatheringTransport", self.transport).socket
        super().handle_websocket_upgrade()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, f"the request's head did not end within {self.head_seconds:g} seconds")

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, error: str) -> None:
        body = msgspec.json.encode(Error(error))
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + retry + b"\r\n" + body)
        self.transport.close()


class _GatheringTransport:
    """Holds writes back until the event loop's turn ends, or until there is a packet's fill of them."""

    def __init__(self, socket: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.socket = socket
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._release)
        self._held += data
        if len(self._held) > _PACKET:
            self._release()

    def close(self) -> None:
        self._release()
        self.socket.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)

    def _release(self) -> None:
        held, self._held = self._held, b""
        if held and not self.socket.is_closing():  # a client may have left since
            self.socket.write(held)
