"""Bytes on a connection: however they are cut, piled up or cut off, the answers are those of separate connections."""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.web.connections import MAX_HEAD
from tests.support.serving.inprocess import MODEL, Serving, serving
from tests.support.serving.wire import (
    command,
    connect,
    exchange,
    left,
    read_to_the_end,
    request,
    until_nothing_is_left,
    upgrade,
    viewing,
    without_dates,
)

INFER = orjson.dumps({"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.125] * 4}]})
PATH = f"/v2/models/{MODEL}/infer"
CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (INFER[:7], INFER[7:], b"\r\n\r\n"))
REQUESTS = {
    "metadata": request("/v2"),
    "head": request("/v2", "HEAD"),
    "page": request("/static/page.js"),
    "missing": request("/nothing"),
    "long head": request("/v2", "GET", "A: " + "x" * 15_000),
    "infer": request(PATH, "POST", body=INFER),
    "long body": request(PATH, "POST", body=INFER + b" " * 16_600),
    "lines in its body": request(PATH, "POST", body=INFER + b"\r\n\r\n" * 50),
    "in chunks": request(PATH, "POST", "Transfer-Encoding: chunked") + CHUNKS + b"0\r\n\r\n",
    "trailers": request(PATH, "POST", "Transfer-Encoding: chunked") + CHUNKS + b"0\r\nA: b\r\n\r\n",
    "expected": request(PATH, "POST", "Expect: 100-continue", body=INFER),
    "body of a GET": request("/v2", body=b"GET /nothing HTTP/1.1\r\n\r\n"),
    "no JSON": request(PATH, "POST", body=b"{"),
    "two hosts": request("/v2", "GET", "Host: localhost"),
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "other host": b"GET /v2 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "HEAD of a stream": request("/api/live.mjpeg", "HEAD"),
    "HEAD of a stream of one's own": request("/api/live.mjpeg?seed=3", "HEAD"),
    "old": b"GET /v2 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "last": request("/v2", "GET", "Connection: close"),
    "too long a head": request("/v2", "GET", "A: " + "x" * MAX_HEAD),
    "no end of a head": request("/v2", "GET", "A: " + "x" * MAX_HEAD).removesuffix(b"\r\n\r\n"),
    "nonsense": b"nonsense\r\n\r\n",
    "bad chunk": request(PATH, "POST", "Transfer-Encoding: chunked") + b"zz\r\n",
    "too long a body": request(PATH, "POST", "Content-Length: 9999999"),
    "half a body": request(PATH, "POST", body=INFER)[:-9],
    "half a head": b"GET /v2 HTTP/1.1\r\nHost: loc",
}
BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def separately(server: Serving) -> dict[str, bytes]:
    return {name: exchange(server, [sent]) for name, sent in REQUESTS.items()}


def expected(names: list[str], separately: dict[str, bytes]) -> bytes:
    """The answers of separate connections, up to one that says that it is the last."""
    answers = b""
    for name in names:
        answers += separately[name]
        if b"\r\nconnection: close\r\n" in separately[name]:
            break
    return answers


def cut(sent: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(sent) + 1) for place in places), len(sent)]
    return [sent[begin:end] for begin, end in pairwise(edges) if begin < end]


def test_a_request_of_each_kind_is_answered_as_it_should_be(separately: dict[str, bytes]) -> None:
    statuses = {name: answer.split(b"\r\n", 1)[0].split(b" ")[1:2] for name, answer in separately.items()}
    assert {name: int(status[0]) for name, status in statuses.items() if status} == {
        "metadata": 200, "head": 200, "page": 200, "missing": 404, "long head": 200, "infer": 200, "long body": 200,
        "lines in its body": 200, "in chunks": 200, "trailers": 200, "expected": 100, "body of a GET": 200,
        "no JSON": 400, "two hosts": 400, "no host": 400, "other host": 421, "HEAD of a stream": 200,
        "HEAD of a stream of one's own": 200, "old": 200, "last": 200, "too long a head": 431,
        "no end of a head": 431, "nonsense": 400, "bad chunk": 400, "too long a body": 413, "half a body": 400,
    }  # fmt: skip
    for name, answer in separately.items():
        for head in (b"x-content-type-options: nosniff", b"cross-origin-opener-policy: same-origin"):
            assert name == "half a head" or head in answer, name


@pytest.mark.slow
@BOUNDED
@given(
    names=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 1 << 20), max_size=6),
)
def test_requests_in_pieces_and_piled_up_are_answered_as_on_separate_connections(
    server: Serving, separately: dict[str, bytes], names: list[str], places: list[int]
) -> None:
    halves = [place for place, name in enumerate(names) if name.startswith("half")]
    names = names[: halves[0] + 1] if halves else names  # what followed would be the other half
    sent = b"".join(REQUESTS[name] for name in names)
    assert exchange(server, cut(sent, places)) == expected(names, separately)
    assert server.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("name", ["infer", "in chunks", "two hosts", "HEAD of a stream", "last", "nonsense"])
def test_every_byte_is_where_a_request_may_be_cut(server: Serving, separately: dict[str, bytes], name: str) -> None:
    pair = ["infer", name]
    sent = b"".join(REQUESTS[each] for each in pair)
    for place in range(1, len(sent)):
        assert exchange(server, cut(sent, [place])) == expected(pair, separately), place


def test_a_long_body_and_half_of_the_next_head_in_one_segment(server: Serving, separately: dict[str, bytes]) -> None:
    names = ["long body", "metadata"]
    sent = b"".join(REQUESTS[name] for name in names)
    for place in (len(sent) - 30, len(sent) - 3, len(REQUESTS["long body"]) + 1):
        assert exchange(server, cut(sent, [place])) == expected(names, separately)


def test_more_requests_than_wait_at_once_are_all_answered(server: Serving, separately: dict[str, bytes]) -> None:
    names = ["metadata", "infer", "missing"] * 60
    assert exchange(server, [b"".join(REQUESTS[name] for name in names)]) == expected(names, separately)


STREAMS = {
    "shared": request("/api/live.mjpeg"),
    "private": request("/api/live.mjpeg?seed=1"),
    "with a body": request("/api/live.mjpeg?seed=1", "GET", "Content-Length: 1000000") + b"x" * 70_000,
    "HEAD": request("/api/live.mjpeg?seed=1", "HEAD"),
    "old": b"GET /api/live.mjpeg?seed=1 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "viewer": upgrade(),
    "viewer of two": upgrade("/api/show?versions=1,2"),
}
BEHIND = {"nothing": b"", "one": REQUESTS["metadata"], "many": REQUESTS["metadata"] * 40, "half": b"GET /v2 HT"}
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
def test_a_stream_ends_with_its_client_whatever_was_sent_and_however_it_left(
    server: Serving, sessions: list[tuple[str, str, str, int]]
) -> None:
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
def test_places_are_given_back_so_that_others_are_admitted(server: Serving, stream: str, behind: str) -> None:
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


def test_an_answer_that_is_large_is_read_after_its_client_has_said_that_it_sends_no_more(server: Serving) -> None:
    names = ["page"] * 30
    page = exchange(server, [REQUESTS["page"]])
    with connect(server) as client:
        client.sendall(b"".join(REQUESTS[name] for name in names))
        client.shutdown(socket.SHUT_WR)
        assert without_dates(read_to_the_end(client)) == page * 30


def test_commands_are_obeyed_however_they_are_cut(server: Serving) -> None:
    sent = upgrade() + command(do="speed", speed=3.0)
    for place in (1, len(upgrade()) - 1, len(upgrade()), len(upgrade()) + 1, len(sent) - 1, len(sent)):
        with viewing(server, sent[:place], sent[place:]) as (_, told):
            errors = (each for each in told if "error" in each)
            assert next(errors) == {"type": "error", "error": "speed must be one of 0.25, 0.5, 1, 2, 4"}
    until_nothing_is_left(server)


def test_one_who_sends_too_many_commands_is_told_and_let_go_while_others_watch(server: Serving) -> None:
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


def test_a_wrong_token_after_the_right_one_takes_back_what_was_allowed() -> None:
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
def test_a_stopping_server_ends_what_will_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the application waits for: uvicorn cancels it, and its client's connection ends without a traceback."""

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    with serving() as server:
        server.app.asgi._app = wait
        with connect(server) as client:
            client.sendall(REQUESTS["metadata"])
            tasks = server.server.server_state.tasks
            while not tasks:
                time.sleep(0.005)
            server.server.should_exit = True
            server.server.ended.wait(60)
            assert read_to_the_end(client) == b""
    assert [record for record in caplog.records if record.exc_info] == []
