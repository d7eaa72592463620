"""Raw sockets to a server in this process, and waiting until nothing of them is left."""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import orjson
import pytest

from tests.support.serving.inprocess import Serving, serving

_SECONDS = 60.0


def connect(server: Serving) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=_SECONDS)


def request(target: str, method: str = "GET", *lines: str, body: bytes = b"") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def exchange(server: Serving, pieces: Iterable[bytes]) -> bytes:
    """Send piece by piece, send no more, and read until the server closes; without the answers' dates."""
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # a refusal closes
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        return without_dates(read_to_the_end(client))


def read_to_the_end(client: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while more := client.recv(1 << 16):
            received += more
    return received


def without_dates(answers: bytes) -> bytes:
    return b"\r\n".join(line for line in answers.split(b"\r\n") if not line.startswith(b"date: "))


def upgrade(target: str = "/api/show") -> bytes:
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    return request(target, "GET", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)


def command(**fields: Any) -> bytes:
    """A text frame, masked with zeros."""
    text = orjson.dumps(fields)
    assert len(text) < 126
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


def messages(stream: IO[bytes]) -> Iterator[Any]:
    """What a viewer is sent after the handshake; code and reason of its close are the last."""
    while head := stream.read(2):
        kind, length = head[0] & 0x0F, head[1]
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
        content = stream.read(length)
        if kind == 8:
            yield int.from_bytes(content[:2], "big"), content[2:].decode()
            return
        if kind == 1:
            yield orjson.loads(content)


@contextmanager
def viewing(server: Serving, *pieces: bytes) -> Iterator[tuple[socket.socket, Iterator[Any]]]:
    """A viewer that has sent these pieces, and what it is sent after the handshake."""
    with connect(server) as client, client.makefile("rb") as stream:
        for piece in pieces:
            client.sendall(piece)
        assert stream.readline().startswith(b"HTTP/1.1 101 ")
        while stream.readline() != b"\r\n":
            pass
        yield client, messages(stream)


def left(server: Serving) -> dict[str, Any]:
    """What runs for clients."""
    live = server.app.live
    assert live
    return {
        "private": live.feed._private,
        "pixels": len(live.feed._viewers),
        "rendering": live.feed._task is not None,
        "viewers": len(live.stage.main.viewers),
        "shows": len(live.stage._shows) - 1,
        "tasks": len(server.server.server_state.tasks),
        "connections": len(server.server.server_state.connections),
    }


def until_nothing_is_left(server: Serving) -> None:
    deadline = time.monotonic() + _SECONDS
    while any((running := left(server)).values()):
        assert time.monotonic() < deadline, running
        time.sleep(0.005)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running
