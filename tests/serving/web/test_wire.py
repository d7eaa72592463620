"""Bytes on a connection: however they are cut, piled up or cut off, the answers are those of separate connections."""

import socket
from itertools import pairwise

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.web.connections import MAX_HEAD
from tests.support.serving.inprocess import MODEL, Serving
from tests.support.serving.wire import (
    connect,
    exchange,
    read_to_the_end,
    request,
    server,
    without_dates,
)

__all__ = ["server"]  # the fixture

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
def test_pipelined_requests_in_pieces_are_answered_as_on_separate_connections(
    server: Serving, separately: dict[str, bytes], names: list[str], places: list[int]
) -> None:
    halves = [place for place, name in enumerate(names) if name.startswith("half")]
    names = names[: halves[0] + 1] if halves else names  # what followed would be the other half
    sent = b"".join(REQUESTS[name] for name in names)
    assert exchange(server, cut(sent, places)) == expected(names, separately)
    assert server.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("name", ["infer", "in chunks", "two hosts", "HEAD of a stream", "last", "nonsense"])
def test_requests_may_be_cut_at_every_byte(server: Serving, separately: dict[str, bytes], name: str) -> None:
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


def test_large_answers_are_sent_after_the_client_closed_its_sending_side(server: Serving) -> None:
    names = ["page"] * 30
    page = exchange(server, [REQUESTS["page"]])
    with connect(server) as client:
        client.sendall(b"".join(REQUESTS[name] for name in names))
        client.shutdown(socket.SHUT_WR)
        assert without_dates(read_to_the_end(client)) == page * 30
