"""Bounds on connections and on the head of a request. In process."""

import asyncio
from typing import Any

import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.web.connections import MAX_HEAD, BoundedProtocol, _connection_limit, _GatheringTransport
from serving.web.sockets import BoundedSocket
from tests.support.serving.wire import upgrade


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
        assert protocol.cycle is None, "nothing was begun"

    asyncio.run(story())


def test_a_head_of_sixteen_kibibytes_is_answered_and_one_byte_more_is_not() -> None:
    async def status_of(length: int, *, in_pieces: bool) -> bytes:
        protocol, wire = connected(ServerState())
        head = b"GET / HTTP/1.1\r\nA: " + b"x" * (length - len("/") - len("A") - 4) + b"\r\n\r\n"
        # a name, a value and the four characters around them; the target
        for piece in [head[:9000], head[9000:]] if in_pieces else [head]:
            protocol.data_received(piece)
        for _ in range(3):
            await asyncio.sleep(0)
        return wire.written[9:12]

    assert MAX_HEAD == 16_384
    assert asyncio.run(status_of(MAX_HEAD, in_pieces=False)) == b"204"
    assert asyncio.run(status_of(MAX_HEAD + 1, in_pieces=False)) == b"431"
    assert asyncio.run(status_of(MAX_HEAD - 20, in_pieces=True)) == b"204"


def test_a_head_that_has_not_ended_is_refused_at_the_first_byte_too_many() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        protocol.data_received(REQUEST + b"A: " + b"x" * (MAX_HEAD - len(REQUEST) - 3))
        assert not wire.closed
        protocol.data_received(b"x")
        assert refusal(wire)[0] == 431

    asyncio.run(story())


def test_every_request_of_a_connection_has_a_head_of_its_own() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        for answered in range(1, 4):
            protocol.data_received(REQUEST + b"A: " + b"x" * 9000 + b"\r\n")
            assert protocol._head_timer, "the next head is timed too"
            protocol.data_received(b"\r\n")
            assert protocol._head_timer is None
            for _ in range(3):
                await asyncio.sleep(0)
            assert wire.written.count(b" 204 ") == answered
        assert not wire.closed
        protocol.data_received(REQUEST + b"A: " + b"x" * MAX_HEAD)
        await asyncio.sleep(0)
        assert b" 431 " in wire.written, "a later one has its bound too"

    asyncio.run(story())


def test_a_body_is_not_counted_to_the_head() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        protocol.data_received(b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(2):
            protocol.data_received(b"x" * 20_000)
        await asyncio.sleep(0)
        assert b"431" not in wire.written

    asyncio.run(story())


def test_a_connection_that_is_lost_leaves_no_timer() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        timer = protocol._head_timer
        assert timer
        protocol.connection_lost(None)
        assert timer.cancelled()
        wire.closed = True
        protocol.data_received(REQUEST)
        protocol._head_is_late()
        protocol.send_400_response("too late")
        assert wire.written == b""

    asyncio.run(story())


def test_a_head_has_ten_seconds_and_connections_are_limited_by_file_descriptors() -> None:
    assert BoundedProtocol.head_seconds == 10
    for descriptors, connections in ((100, 16), (144, 16), (145, 17), (1024, 896), (1 << 20, 8064)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.web.connections.resource.getrlimit", lambda kind, soft=descriptors: (soft, soft))
            assert _connection_limit() == connections


def test_writes_of_one_turn_are_sent_in_one_piece_unless_they_are_long() -> None:
    async def story() -> None:
        wire = Wire()
        writes: list[int] = []
        wire.write = lambda data: writes.append(len(data))  # type: ignore[method-assign]
        gathering = _GatheringTransport(wire, asyncio.get_running_loop())
        for data in (b"a", b"bc"):
            gathering.write(data)
        assert writes == []
        await asyncio.sleep(0)
        assert writes == [3]
        gathering.write(b"x" * 65_536)
        assert writes == [3]
        gathering.write(b"y")
        assert writes == [3, 65_537]
        gathering.write(b"last")
        gathering.close()
        assert (writes, wire.closed) == ([3, 65_537, 4], True)
        gathering.write(b"too late")
        await asyncio.sleep(0)
        assert writes == [3, 65_537, 4]

    asyncio.run(story())


def test_a_head_has_a_bounded_time() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState(), head_seconds=0)
        protocol.data_received(REQUEST)
        while not wire.closed:
            await asyncio.sleep(0)
        assert refusal(wire) == (408, "the request's head did not end within 0 seconds")
        assert protocol._head_timer is None

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


def test_bytes_that_are_not_http_are_refused_in_json() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        protocol.data_received(b"nonsense\r\n\r\n")
        await asyncio.sleep(0)
        assert refusal(wire)[0] == 400

    asyncio.run(story())


def test_a_socket_that_its_client_has_just_closed_is_not_closed_again() -> None:
    """The close may come while the server stops, after it has looked for those that are closing."""

    async def story() -> None:
        async def accept(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

        config = uvicorn.Config(accept, lifespan="off", log_config=None)
        config.load()
        viewer, wire = BoundedSocket(config, ServerState(), {}), Wire()
        aborted: list[bool] = []
        wire.abort = lambda: aborted.append(True)  # type: ignore[method-assign]
        viewer.connection_made(wire)
        viewer.data_received(upgrade())
        while not viewer.handshake_complete:
            await asyncio.sleep(0)
        viewer.data_received(bytes((0x88, 0x80, 0, 0, 0, 0)))
        assert wire.closed
        viewer.shutdown()
        assert aborted

    asyncio.run(story())
