"""Bounds on connections and on a request's head, and how a server stops. In process."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from serving.models.follower import Models
from serving.web.application import App
from serving.web.server import MAX_HEAD, BoundedProtocol, Server
from tests.serving.inprocess import two_versions


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def connected(state: ServerState, **attributes: float) -> tuple[BoundedProtocol, Wire]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol, wire = BoundedProtocol(config, state, {}), Wire()
    for name, value in attributes.items():
        setattr(protocol, name, value)
    protocol.connection_made(wire)
    return protocol, wire


def refusal(wire: Wire) -> tuple[int, str]:
    head, _, body = wire.written.partition(b"\r\n\r\n")
    assert wire.closed
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), orjson.loads(body)["error"]


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST + b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n"],
        [REQUEST + b"A: " + b"x" * MAX_HEAD],
        [REQUEST, *[b"A%d: " % index + b"x" * 1000 + b"\r\n" for index in range(18)]],
        [b"GET /" + b"x" * MAX_HEAD],
    ],
)
def test_a_head_has_a_bounded_size(pieces: list[bytes]) -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        for piece in pieces:
            protocol.data_received(piece)
        await asyncio.sleep(0)
        assert refusal(wire) == (431, "a request's head may have at most 16384 bytes")

    asyncio.run(story())


def test_a_head_has_a_bounded_time() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState(), head_seconds=0)
        protocol.data_received(REQUEST)
        await asyncio.sleep(0.01)
        assert refusal(wire)[0] == 408

    asyncio.run(story())


def test_connections_are_bounded_and_a_later_one_is_let_in() -> None:
    async def story() -> None:
        state = ServerState()
        first, one = connected(state, max_connections=1)
        _, two = connected(state, max_connections=1)
        await asyncio.sleep(0)
        assert refusal(two)[0] == 503
        assert b"retry-after: 1\r\n" in two.written
        assert not one.closed
        first.data_received(REQUEST + b"\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert b" 204 " in one.written
        assert first._head_timer is None

    asyncio.run(story())


def test_what_is_not_http_is_refused_in_json() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        protocol.data_received(b"nonsense\r\n\r\n")
        await asyncio.sleep(0)
        assert refusal(wire)[0] == 400

    asyncio.run(story())


def test_a_viewer_who_is_just_leaving_is_not_told_to_leave() -> None:
    asyncio.run(stop_with_a_viewer_who_leaves())


async def stop_with_a_viewer_who_leaves() -> None:
    app = App(Models(two_versions(), alias="champion", version=None), show=False)
    server = Server(app, "in process")
    server.servers = []
    ended: list[str] = []

    async def end_lifespan() -> None:
        ended.append("lifespan")

    server.lifespan = SimpleNamespace(shutdown=end_lifespan)
    connections = server.server_state.connections

    def leaving(is_closing: bool) -> WebSocketsSansIOProtocol:
        viewer = object.__new__(WebSocketsSansIOProtocol)

        def lost() -> None:
            ended.append("aborted")
            asyncio.get_running_loop().call_soon(connections.discard, viewer)

        def shut_down() -> None:
            if is_closing:
                pytest.fail("it is closing already")
            ended.append("told")
            connections.discard(viewer)

        viewer.transport = SimpleNamespace(is_closing=lambda: is_closing, abort=lost)  # type: ignore[assignment]
        viewer.shutdown = shut_down  # type: ignore[method-assign]
        return viewer

    connections.update((leaving(True), leaving(False)))
    await server.shutdown()
    assert ended == ["aborted", "told", "lifespan"]
