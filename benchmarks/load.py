"""Load on an HTTP or WebSocket server of this machine, from one process that costs less than the server."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, cast

HANDSHAKE: Final = (
    b"GET /api/show HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass
class Load:
    """What a server did under load."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def count(self) -> int:
        """Answered requests."""
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.count / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds that this share of the requests stayed under."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def hammer(
    port: int,
    path: str,
    body: bytes,
    *,
    seconds: float,
    connections: int = 16,
    check: Callable[[bytes], bool] = lambda _: True,
    method: str = "POST",
    success: bytes = b"200",
) -> Load:
    """Send the same request over kept connections, at least once; each sends again when it has its answer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    load = Load(seconds)
    loop = asyncio.get_running_loop()
    client = partial(_Client, request, load, time.perf_counter() + seconds, check, success)
    clients = [await loop.create_connection(client, "127.0.0.1", port) for _ in range(connections)]
    await asyncio.gather(*(client.finished for _, client in clients))
    return load


class _Client(asyncio.Protocol):
    """One connection. It is a protocol and not a pair of streams because that takes a third of the CPU time."""

    def __init__(
        self, request: bytes, load: Load, until: float, check: Callable[[bytes], bool], success: bytes
    ) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._load, self._until, self._check = request, load, until, check
        self._success = b"http/1.1 " + success
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not inherit from it
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        header = self._buffer[:end].lower() + b"\r\n"
        start = header.index(b"content-length: ") + 16
        size = int(header[start : header.index(b"\r", start)])
        if len(self._buffer) < end + 4 + size:
            return
        now = time.perf_counter()
        self._load.latencies.append(now - self._sent)
        if not header.startswith(self._success) or not self._check(self._buffer[end + 4 :]):
            self._load.errors += 1
        self._buffer = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.finished.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


async def watch(port: int, viewers: int, seconds: float) -> list[int]:
    """Frames that each of many viewers of the live show received in the first seconds of an episode.

    One episode only, because nothing moves in the break between two.
    """
    frames = [0] * viewers
    waiting, until = viewers, inf

    async def one(index: int) -> None:
        nonlocal waiting, until
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE % port)
        await reader.readuntil(b"\r\n\r\n")
        waiting -= 1
        while True:
            length = (await reader.readexactly(2))[1]
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2))
            message = await reader.readexactly(length)
            if waiting or not message.startswith(b'{"e"'):
                continue
            if until == inf and b'"k":0,' in message:
                until = time.perf_counter() + seconds
            if time.perf_counter() > until:
                break
            frames[index] += until < inf
        writer.close()

    await asyncio.gather(*(one(index) for index in range(viewers)))
    return frames


async def arrive(port: int, viewers: int) -> list[asyncio.StreamWriter]:
    """Connect many viewers of the live show at once, and wait for the first message of each. The caller closes them."""

    async def one() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE % port)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1)
        return writer

    return list(await asyncio.gather(*(one() for _ in range(viewers))))


def command(name: str) -> bytes:
    """A viewer's command without further fields, as a WebSocket's frame."""
    text = b'{"do": "%s"}' % name.encode()
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text  # masked, by zeros
