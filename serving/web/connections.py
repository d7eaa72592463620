"""HTTP connections: bounds on heads and on their number, and answers that leave in one piece and in order."""

import asyncio
import resource
from functools import partial
from typing import Any, ClassVar, Final, cast

import msgspec
from starlette.types import Message, Receive, Send
from uvicorn._types import ASGI3Application as ASGIApplication
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.web.answers import Error
from serving.web.security import HEADERS

MAX_HEAD: Final = 16 << 10
_HEAD_END: Final = b"\r\n\r\n"
_PIPELINED: Final = 16
"""Requests of a connection that wait for their turn; what follows is read later."""
_PACKET: Final = 1 << 16
_OWN_FILES: Final = 128


def _connection_limit() -> int:
    """The number of file descriptors, less those that the server needs itself."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(descriptors, 8192) - _OWN_FILES)


class ClientGoneError(OSError):
    """The connection is closed, so an answer would reach no client."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP with limits on heads and connections. Answers leave in one piece and in order.

    uvicorn writes the head and the body of an answer separately. uvloop sends each with its own system call and packet,
    which takes a seventh of the time of a short request.

    The parser gets data up to the end of one head or body at a time, so that the limits hold for each request of a
    connection. A refusal waits for the answers to earlier requests.
    """

    head_seconds: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = _connection_limit()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own is
        """Put the gathering transport between uvicorn and the socket; refuse a connection above the limit."""
        super().connection_made(cast("asyncio.Transport", _GatheringTransport(transport, self.loop)))
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._end_begun = b""  # the last bytes read: the end of a head may begin in them
        self._body_left = 0
        self._unread = b""  # data of requests beyond the limit of waiting ones
        self._running: RequestResponseCycle | None = None
        self._refusal = b""  # waits for the answers before it
        self._ignoring = False  # nothing more is answered, and received data is dropped
        self._half_closed = False  # the client sends nothing more
        self._upgraded = False
        if len(self.connections) > self.max_connections:
            self._refuse(503, f"{self.max_connections} connections are open already: try again in a second")
            return
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the running request. uvicorn notifies the last one received, which may still wait for its turn."""
        self._stop_timer()
        self._ignore_rest()
        if self._running:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's returns None, which loses the answers
        """The client sends no more: its requests are still answered, and a stream ends."""
        self._half_closed = True
        self._stop_timer()
        if self._running is None:
            self.transport.close()  # sends the gathered data, which returning False would lose
        else:
            self._running.message_event.set()
        return True

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece, and count the bytes of a head that is not complete."""
        if self._unread:
            self._unread += data
            self.flow.pause_reading()
            return
        start = 0
        while start < len(data) and not self._ignoring and not self.transport.is_closing():
            if len(self.pipeline) >= _PIPELINED:
                self._unread = data[start:]
                self.flow.pause_reading()
                return
            end = self._boundary(data, start)
            piece, start = data[start:end], end
            super().data_received(piece)
            if self._upgraded:
                if start < len(data):
                    cast("asyncio.Protocol", self.transport.get_protocol()).data_received(data[start:])
                return
            if self._in_head:
                self._head_bytes += len(piece)
                if self._head_bytes > MAX_HEAD:
                    self._refuse(431, f"a request's head may have at most {MAX_HEAD} bytes")

    def _boundary(self, data: bytes, start: int) -> int:
        """The position in `data` after the present head or body; the length of `data` if it ends later."""
        if self._body_left:
            self._end_begun = b""
            return min(len(data), start + self._body_left)
        begun = len(self._end_begun)
        found = (self._end_begun + data[start : start + 3]).find(_HEAD_END) if begun else -1
        if found >= 0:
            end = start + found + len(_HEAD_END) - begun
        else:
            found = data.find(_HEAD_END, start)
            end = found + len(_HEAD_END) if found >= 0 else len(data)
        self._end_begun = b"" if found >= 0 else (self._end_begun + data[max(start, end - 3) : end])[-3:]
        return end

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
            raise ValueError("head too long")  # stops the parser
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        self._body_left = int(length) if length.isdigit() else 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count the rest of the body."""
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next byte belongs to another request."""
        self._body_left = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin the next request; after the last one, send a waiting refusal and close."""
        self._running = None
        super().on_response_complete()
        if self._unread and not self.pipeline and not self.transport.is_closing():
            unread, self._unread = self._unread, b""
            self.data_received(unread)
        if self._running is not None or self.transport.is_closing():
            return
        if self._refusal or self._half_closed:
            self.transport.write(self._refusal)
            self.transport.close()
        elif self._in_head:  # the next one has begun: its own timer runs
            self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        """Refuse data that is not HTTP, in JSON like every refusal."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    def handle_websocket_upgrade(self) -> None:
        """Give the WebSocket the socket itself: its frames are already written in one piece."""
        if self._running:
            self._refuse(400, "a WebSocket begins when all earlier requests of its connection are answered")
            return
        self._upgraded = True
        self.transport = cast("_GatheringTransport", self.transport).socket
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApplication) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, cast("ASGIApplication", partial(self._answer, cycle, app)))

    async def _answer(self, cycle: RequestResponseCycle, app: Any, scope: Any, receive: Receive, send: Send) -> None:
        """Run the application, and end it when the client is gone."""
        body_read = False

        async def receive_or_end() -> Message:
            nonlocal body_read
            message = None if self._half_closed and (body_read or cycle.more_body) else await receive()
            if message is None or (self._half_closed and (body_read or cycle.more_body)):
                return {"type": "http.disconnect"}
            body_read = not message.get("more_body", False)
            return message

        async def send_or_end(message: Message) -> None:
            if cycle.disconnected or self.transport.is_closing():
                raise ClientGoneError("the client is gone")
            await send(message)
            if not cycle.keep_alive and not self._ignoring and cycle.response_started:
                self._ignore_rest()  # this is the last answer of the connection

        try:
            await app(scope, receive_or_end, send_or_end)
        except ClientGoneError:
            cycle.disconnected = True
        except asyncio.CancelledError:  # the server stops and has waited; uvicorn would log a traceback
            cycle.disconnected = True
            self.transport.abort()
        if self._half_closed and not cycle.response_complete:
            cycle.disconnected = True
            self.transport.close()

    def _ignore_rest(self) -> None:
        """Answer nothing more, but keep reading: otherwise a client that leaves is not noticed."""
        self._ignoring = True
        self.pipeline.clear()
        self._unread = b""
        self._stop_timer()
        self.flow.resume_reading()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._running:  # reading may be paused until it ends
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)
        elif not self.transport.is_closing():
            self._refuse(408, f"the request's head did not end within {self.head_seconds:g} seconds")

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, error: str) -> None:
        """Answer instead of the application after the answers to earlier requests; then close."""
        if self._ignoring:
            return
        cycle, waiting = self.cycle, self.pipeline.copy()
        self._ignore_rest()
        if cycle and cycle.more_body and not cycle.response_complete:  # the refused body is its own
            cycle.disconnected = True
            cycle.message_event.set()
            if waiting:
                waiting.popleft()
            else:
                self._running = None
        body = msgspec.json.encode(Error(error))
        headers = [*self.server_state.default_headers, *HEADERS, (b"content-type", b"application/json")]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        words = b"%s%s\r\n%s" % (STATUS_LINE[status], lines, body)
        if self._running:
            self.pipeline, self._refusal = waiting, words
            return
        if not (cycle and cycle.disconnected and cycle.response_started):
            self.transport.write(words)
        self.transport.close()


class _GatheringTransport:
    """Gathers writes until the turn of the event loop ends, or until a packet is full."""

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
        if held and not self.socket.is_closing():  # the client may have left since
            self.socket.write(held)
