"""uvicorn, set up for small answers and for streams that end only when the server stops."""

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serving.web.connections import BoundedProtocol
from serving.web.proxies import Forwarded, Network
from serving.web.sockets import BoundedSocket

_UNREAD_SECONDS: Final = 1.0
"""Time for clients to read what was written, when the server stops."""
_LAST_SECONDS: Final = 4.0
_LOG: Final = logging.getLogger("serving")


class Application(Protocol):
    """The served application."""

    @property
    def asgi(self) -> Any:
        """The ASGI application."""

    def close(self) -> None:
        """End every stream now."""


class Server(uvicorn.Server):
    """A server on one listening socket. It prints its address, and ends all streams when it stops."""

    def __init__(self, app: Application, url: str, *, proxies: Sequence[Network] = ()) -> None:
        config = uvicorn.Config(
            Forwarded(app.asgi, proxies) if proxies else app.asgi,
            proxy_headers=False,
            loop="uvloop",
            http=BoundedProtocol,
            ws=BoundedSocket,
            ws_per_message_deflate=False,  # frames have 150 bytes: compression costs more than it saves
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
        """Start, then print the address."""
        await super().startup(sockets)
        sys.stdout.write(f"{self._url}  (Ctrl-C stops)\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. After some seconds the process ends even if a thread hangs."""
        super().handle_exit(sig, frame)
        last_resort = threading.Timer(_LAST_SECONDS, _leave, [sig])
        last_resort.daemon = True
        last_resort.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn waits for all connections, and a stream has no end."""
        self._app.close()
        for connection in list(self.server_state.connections):
            # If the client has just closed a WebSocket, closing it again is an error that stops uvicorn half-way.
            if isinstance(connection, WebSocketsSansIOProtocol) and connection.transport.is_closing():
                connection.transport.abort()
        await asyncio.sleep(0)
        timer = asyncio.get_running_loop().call_later(_UNREAD_SECONDS, self._abort_unread)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _abort_unread(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()


def _leave(sig: int) -> None:
    _LOG.warning("something still hangs %g s after the signal to stop; the process ends without it", _LAST_SECONDS)
    os._exit(128 + sig)
