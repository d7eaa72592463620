"""Streams over raw sockets: each ends with its client and releases its place, and a server stops despite them."""

import asyncio
import socket
import struct
import time
from contextlib import ExitStack, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.serving.inprocess import Serving, serving
from tests.support.serving.wire import (
    command,
    connect,
    left,
    read_to_the_end,
    request,
    server,
    until_nothing_is_left,
    upgrade,
    viewing,
)

__all__ = ["server"]  # the fixture

BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
STREAMS = {
    "shared": request("/api/live.mjpeg"),
    "private": request("/api/live.mjpeg?seed=1"),
    "with a body": request("/api/live.mjpeg?seed=1", "GET", "Content-Length: 1000000") + b"x" * 70_000,
    "HEAD": request("/api/live.mjpeg?seed=1", "HEAD"),
    "old": b"GET /api/live.mjpeg?seed=1 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "viewer": upgrade(),
    "viewer of two": upgrade("/api/show?versions=1,2"),
}
BEHIND = {"nothing": b"", "one": request("/v2"), "many": request("/v2") * 40, "half": b"GET /v2 HT"}
BEHIND |= {"another": STREAMS["private"], "viewer": STREAMS["viewer"], "nonsense": b"\x00\r\n\r\n"}


@pytest.mark.slow
@BOUNDED
@given(
    sessions=st.lists(
        st.tuples(
            st.sampled_from(sorted(STREAMS)),
            st.sampled_from(sorted(BEHIND)),
            st.sampled_from(["closed", "reset", "half closed", "read first"]),
            st.integers(0, 200),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_stream_ends_when_its_client_leaves(server: Serving, sessions: list[tuple[str, str, str, int]]) -> None:
    clients = []
    for stream, behind, leaving, until in sessions:
        client = connect(server)
        clients.append((client, leaving))
        sent = STREAMS[stream] + BEHIND[behind]
        client.sendall(sent[:until] if until < 100 else sent)
    for client, leaving in clients:
        with suppress(OSError):
            if leaving == "read first":
                client.settimeout(0.05)
                client.recv(2000)
            elif leaving == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif leaving == "half closed":
                client.settimeout(60)
                client.shutdown(socket.SHUT_WR)
                read_to_the_end(client)
        client.close()
    until_nothing_is_left(server)
    assert server.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("behind", sorted(BEHIND))
@pytest.mark.parametrize("stream", sorted(STREAMS))
def test_a_place_is_free_again_after_its_client_left(server: Serving, stream: str, behind: str) -> None:
    for _ in range(5):  # there are four places
        client = connect(server)
        client.sendall(STREAMS[stream] + BEHIND[behind])
        assert client.recv(12)[9:] in (b"200", b"101"), "it is admitted"
        client.close()
        until_nothing_is_left(server)


def test_a_stream_ends_while_the_show_is_paused_and_writes_nothing(server: Serving) -> None:
    assert server.app.live
    show = server.app.live.stage.main
    show._paused = True
    try:
        for behind in BEHIND.values():
            client = connect(server)
            client.sendall(STREAMS["shared"] + behind)
            assert client.recv(12)[9:] == b"200"
            client.close()
            until_nothing_is_left(server)
    finally:
        show._paused = False


def test_head_of_a_stream_starts_none(server: Serving) -> None:
    assert server.app.live
    for path in ("/api/live.mjpeg", "/api/live.mjpeg?seed=1"):
        with connect(server) as client:
            client.sendall(request(path, "HEAD"))
            answer = read_to_the_end(client)
        assert b"content-type: multipart/x-mixed-replace; boundary=frame" in answer
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"HTTP/1.1") == 1
        running = left(server)
        assert (running["private"], running["pixels"]) == (0, 0)


def test_commands_may_be_cut_at_any_byte(server: Serving) -> None:
    sent = upgrade() + command(do="speed", speed=3.0)
    for place in (1, len(upgrade()) - 1, len(upgrade()), len(upgrade()) + 1, len(sent) - 1, len(sent)):
        with viewing(server, sent[:place], sent[place:]) as (_, told):
            errors = (each for each in told if "error" in each)
            assert next(errors) == {"type": "error", "error": "speed must be one of 0.25, 0.5, 1, 2, 4"}
    until_nothing_is_left(server)


def test_a_viewer_that_sends_too_many_commands_is_disconnected_and_others_are_not(server: Serving) -> None:
    sentence = "a connection may send 50 commands a second: connect again, and send fewer"
    with viewing(server, upgrade()) as (_, watched), viewing(server, upgrade()) as (flooding, told):
        flooding.sendall(command(do="resume") * 100)
        assert "error" not in next(told), "so many at once are allowed"
        flooding.sendall(command(do="resume") * 400)
        *_, last, closed = told
        assert last == {"type": "error", "error": sentence}
        assert closed == (1008, sentence)
        assert next(watched)
    until_nothing_is_left(server)


def test_a_flood_that_is_never_read_ends_too(server: Serving) -> None:
    with connect(server) as flooding:
        with suppress(OSError):
            flooding.sendall(upgrade() + command(do="resume") * 200_000)
        assert server.get("/v2/health/live").status_code == 200
        until_nothing_is_left(server)


def test_a_wrong_token_after_the_right_one_revokes_the_permission() -> None:
    with serving(token="right") as server:
        for wrong in ({"token": "wrong"}, {"token": 7}, {"token": None}, {"token": ["right"]}, {}):
            asked = command(do="authorize", token="right") + command(do="speed", speed=3.0)
            with viewing(server, upgrade() + asked) as (client, told):
                errors = (each["error"] for each in told if "error" in each)
                assert next(errors).startswith("speed must be"), "it is obeyed"
                client.sendall(command(do="authorize", **wrong))
                assert next(errors).startswith("this needs the server's token")
                client.sendall(command(do="speed", speed=3.0))
                assert next(errors).startswith("this needs the server's token")
        until_nothing_is_left(server)


@pytest.mark.slow
def test_a_server_stops_though_its_streams_are_not_read(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, ExitStack() as clients:
        for sent in (STREAMS["shared"], STREAMS["private"], upgrade(), STREAMS["shared"]):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            client.sendall(sent)
        connections = server.server.server_state.connections
        deadline = time.monotonic() + 60
        while sum(bool(each.transport.get_write_buffer_size()) for each in list(connections)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        caplog.clear()
        server.server.should_exit = True
        server.server.ended.wait(60)
        said = [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
        assert said == [], "no traceback, and nothing that had to be cancelled"
        assert not connections


@pytest.mark.slow
def test_a_stopping_server_cancels_a_request_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the application waits for: uvicorn cancels it, and its client's connection ends without a traceback."""

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    with serving() as server:
        server.app.asgi._app = wait
        with connect(server) as client:
            client.sendall(request("/v2"))
            tasks = server.server.server_state.tasks
            while not tasks:
                time.sleep(0.005)
            server.server.should_exit = True
            server.server.ended.wait(60)
            assert read_to_the_end(client) == b""
    assert [record for record in caplog.records if record.exc_info] == []
