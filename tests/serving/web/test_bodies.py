"""Request bodies of bounded size and time, and answers that are compressed. In process."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from serving.errors import RequestError
from serving.web.bodies import MAX_BODY, compress, read_body

MIB = 1 << 20


def arriving(*messages: dict[str, Any], late: bool = False) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A client's messages, which have come already or come a moment later; then nothing more."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        if late:
            await asyncio.sleep(0)
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    return receive


def chunks(*bodies: bytes) -> list[dict[str, Any]]:
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    messages[-1]["more_body"] = False
    return messages


def read(*messages: dict[str, Any], late: bool = False, length: str = "", encoding: str = "") -> bytes:
    scope = {"headers": [(b"content-length", length.encode()), (b"content-encoding", encoding.encode())]}
    return asyncio.run(read_body(scope, arriving(*messages, late=late)))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bodies", [(b"",), (b"{}",), (b"{", b"}"), (b"a", b"", b"b", b"c")])
def test_a_body_comes_in_one_piece_or_in_several(bodies: tuple[bytes, ...], late: bool) -> None:
    assert read(*chunks(*bodies), late=late) == b"".join(bodies)


def test_a_message_without_a_body_has_none() -> None:
    assert read({"type": "http.request"}) == b""


@pytest.mark.parametrize(
    ("bodies", "length"),
    [((b"x" * MIB,), str(MIB)), ((b"x" * MIB,), ""), ((b"x" * MIB, b""), ""), ((b"x" * (MIB - 1), b"x"), "soon")],
)
def test_a_body_may_have_a_mebibyte(bodies: tuple[bytes, ...], length: str) -> None:
    assert len(read(*chunks(*bodies), length=length)) == MIB


@pytest.mark.parametrize(
    ("messages", "headers", "sentence"),
    [
        ([], {"length": str(MIB + 1)}, "a body may have at most 1048576 bytes, got 1048577"),
        ([], {"length": "9" * 30}, f"a body may have at most 1048576 bytes, got {'9' * 20}"),
        (chunks(b"x" * (MIB + 1)), {}, "a body may have at most 1048576 bytes, this one has more"),
        (chunks(b"x" * MIB, b"x"), {}, "a body may have at most 1048576 bytes, this one has more"),
        (chunks(b"x" * MIB, b"x", b"x")[:2], {}, "a body may have at most 1048576 bytes, this one has more"),
        (
            chunks(gzip.compress(b"x" * (MIB + 1), mtime=0)),
            {"encoding": "gzip"},
            "a body may have at most 1048576 bytes, this one unpacks to more",
        ),
    ],
)
def test_a_body_that_is_larger_is_refused_as_soon_as_that_is_known(
    messages: list[dict[str, Any]], headers: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError) as refused:
        read(*messages, **headers)
    assert (str(refused.value), refused.value.status) == (sentence, 413)


@pytest.mark.parametrize("messages", [[], chunks(b"{", b"}")[:1]])
def test_a_body_has_ten_seconds(messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    limits, timeout = [], asyncio.timeout

    def at_once(seconds: float) -> asyncio.Timeout:
        limits.append(seconds)
        return timeout(0)

    monkeypatch.setattr("serving.web.bodies.asyncio.timeout", at_once)
    with pytest.raises(RequestError, match="the body did not end within 10 seconds") as refused:
        read(*messages)
    assert (refused.value.status, limits) == (408, [10])


@pytest.mark.parametrize("before", [[], chunks(b"{", b"}")[:1]])
def test_a_client_that_goes_away_has_sent_no_body(before: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match="the client went away"):
        read(*before, {"type": "http.disconnect"})


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"x" * MIB, mtime=0)),
        (" GZIP ", gzip.compress(b"x" * MIB, mtime=0)),
        ("deflate", zlib.compress(b"x" * MIB)),
        ("identity", b"x" * MIB),
    ],
)
def test_a_compressed_body_is_unpacked(encoding: str, packed: bytes) -> None:
    assert read(*chunks(packed), encoding=encoding) == b"x" * MIB


@pytest.mark.parametrize(
    ("encoding", "body", "sentence", "status"),
    [
        ("br", b"x", "Content-Encoding must be gzip or deflate, got 'br'", 415),
        ("z" * 50, b"x", f"Content-Encoding must be gzip or deflate, got '{'z' * 40}'", 415),
        ("gzip", b"no gzip", "the body is not valid gzip: ", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], "the body is not one complete gzip stream", 400),
        ("deflate", zlib.compress(b"{}") + b"x", "the body is not one complete deflate stream", 400),
        ("gzip", zlib.compress(b"{}"), "the body is not valid gzip: ", 400),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_refused(encoding: str, body: bytes, sentence: str, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        read(*chunks(body), encoding=encoding)
    assert str(refused.value).startswith(sentence)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"gzip;q=0.8", b"gzip"),
        (b"Deflate, GZIP", b"gzip"),
        (b"gzip; q=0", b""),
        (b"gzip; level=9; q=0", b""),
        (b"gzip;q=0.0, deflate", b"deflate"),
        (b"gzip;q=x", b""),
        (b"br", b""),
        (b"", b""),
    ],
)
def test_an_encoding_has_a_weight(accept: bytes, encoding: bytes) -> None:
    body, used = compress(b"0" * 1024, accept)
    assert used == encoding
    if used:
        assert zlib.decompress(body, wbits=31 if used == b"gzip" else 15) == b"0" * 1024
    else:
        assert body == b"0" * 1024


def test_a_short_answer_stays_as_it_is() -> None:
    assert compress(b"0" * 1023, b"gzip") == (b"0" * 1023, b"")


def sent(chunks: list[bytes], *headers: tuple[bytes, bytes], ends: bool = True) -> bytes:
    async def receive() -> Message:
        if not chunks:
            await asyncio.sleep(60)
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks) or not ends}

    return asyncio.run(read_body({"headers": list(headers)}, receive))


def test_bodies_are_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.web.bodies.BODY_SECONDS", 0.05)
    assert sent([b"a", b"b"]) == b"ab"
    assert sent([b"x" * MAX_BODY]) == b"x" * MAX_BODY
    gzipped, deflated = ((b"content-encoding", encoding) for encoding in (b"gzip", b"Deflate "))
    assert sent([gzip.compress(b"hello")], gzipped) == sent([zlib.compress(b"hello")], deflated) == b"hello"
    largest = b"x" * MAX_BODY
    assert sent([largest], (b"content-length", b"1048576")) == sent([gzip.compress(largest)], gzipped) == largest
    refused = [
        (413, [b""], (b"content-length", b"1048577")),
        (413, [b"x" * MAX_BODY, b"x"], (b"x", b"")),
        (413, [gzip.compress(b"x" * (MAX_BODY + 1))], gzipped),
        (400, [b"not gzip"], gzipped),
        (400, [gzip.compress(b"hello")[:-3]], gzipped),
        (400, [gzip.compress(b"hello") + b"more"], gzipped),
        (415, [b""], (b"content-encoding", b"br")),
    ]
    for status, chunks, header in refused:
        with pytest.raises(RequestError) as caught:
            sent(chunks, header)
        assert caught.value.status == status
    with pytest.raises(RequestError, match="this one has more"):  # without waiting for the rest
        sent([largest, b"x"], ends=False)
    with pytest.raises(RequestError, match="did not end within") as caught:
        sent([b"x"], ends=False)
    assert caught.value.status == 408


def test_long_answers_are_compressed_on_request() -> None:
    long = b"x" * 2000
    packed, encoding = compress(long, b"gzip, deflate")
    assert (gzip.decompress(packed), encoding) == (long, b"gzip")
    assert compress(long, b"br") == (long, b"")
    short = b"x" * 1023
    assert compress(short, b"gzip") == (short, b"")
    assert compress(short + b"x", b"gzip")[1] == b"gzip"
