"""uvicorn, tuned to what it serves here: small answers, and streams that would never end by themselves."""

import asyncio
import socket
import sys
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.web.application import App

_PACKET: Final = 1 << 16


class Server(uvicorn.Server):
    """A server on one listening socket that says where it is, and whose streams end when it is told to stop."""

    def __init__(self, app: App, url: str) -> None:
        config = uvicorn.Config(
            app.asgi,
            loop="uvloop",
            http=GatheringProtocol,
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn waits for connections, and a stream would never end by itself."""
        self._app.close()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


class GatheringProtocol(HttpToolsProtocol):
    """HTTP whose answers leave when the event loop's turn ends, in one piece each.

    uvicorn writes an answer's head and its body apart, and uvloop makes of each a system call, a packet, and a
    client that wakes up and asks for the processor: a seventh of the time of a short request.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own is
        """Put the gathering transport between uvicorn and the socket."""
        super().connection_made(cast("asyncio.Transport", _GatheringTransport(transport, self.loop)))

    def handle_websocket_upgrade(self) -> None:
        """Frames come in one piece already: they go to the socket itself."""
        self.transport = cast("_GatheringTransport", self.transport).socket
        super().handle_websocket_upgrade()


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
