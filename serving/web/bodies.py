"""Request bodies of bounded size and time, plain or compressed."""

import asyncio
import zlib
from typing import Final, cast

from starlette.types import Message, Receive, Scope

from serving.errors import RequestError

MAX_BODY: Final = 1 << 20
BODY_SECONDS = 10.0
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, decompressed.

    Raises:
        RequestError: 413 if it is over 1 MiB, before or after decompression; 408 if it does not end in time;
            415 for a Content-Encoding other than gzip and deflate; 400 if it cannot be decompressed.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BODY:
        raise RequestError(f"a body may have at most {MAX_BODY} bytes, got {length[:20].decode()}", 413)
    message = _received(receive)
    if message is None or message.get("more_body"):
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _receive_all(receive, message)
        except TimeoutError:
            raise RequestError(f"the body did not end within {BODY_SECONDS:g} seconds", 408) from None
    else:
        body = _content(message)
    if len(body) > MAX_BODY:
        raise RequestError(f"a body may have at most {MAX_BODY} bytes, this one has more", 413)
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    return body if encoding in (b"", b"identity") else _decompress(body, encoding)


def _received(receive: Receive) -> Message | None:
    """The message if it has already arrived. Most bodies have, and a timer takes a twentieth of a short request."""
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as received:
        return cast("Message", received.value)
    receiving.close()
    return None


async def _receive_all(receive: Receive, message: Message | None) -> bytes:
    message = message or await receive()
    chunks = [_content(message)]
    size = len(chunks[0])
    while message.get("more_body") and size <= MAX_BODY:
        message = await receive()
        chunks.append(_content(message))
        size += len(chunks[-1])
    return b"".join(chunks)


def _content(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise RequestError("the client went away")
    return cast("bytes", message.get("body", b""))


def _decompress(body: bytes, encoding: bytes) -> bytes:
    if encoding not in _WINDOW_BITS:
        raise RequestError(f"Content-Encoding must be gzip or deflate, got {encoding[:40].decode('latin-1')!r}", 415)
    unpacker = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    try:
        plain = unpacker.decompress(body, MAX_BODY + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not valid {encoding.decode()}: compress it anew, or send it plain") from error
    if len(plain) > MAX_BODY:
        raise RequestError(f"a body may have at most {MAX_BODY} bytes, this one unpacks to more", 413)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"the body is not one complete {encoding.decode()} stream")
    return plain


def compress(body: bytes, accept_encoding: bytes) -> tuple[bytes, bytes]:
    """The body in an encoding that the client accepts, and the Content-Encoding. Short bodies are not compressed."""
    if len(body) < 1024:
        return body, b""
    accepted = [name for name, weight in map(_weighed, accept_encoding.lower().split(b",")) if weight > 0]
    for encoding, bits in _WINDOW_BITS.items():
        if encoding in accepted:
            packer = zlib.compressobj(level=1, wbits=bits)
            return packer.compress(body) + packer.flush(), encoding
    return body, b""


def _weighed(part: bytes) -> tuple[bytes, float]:
    """A coding of Accept-Encoding and its weight, 0 to 1 (RFC 9110, 12.4.2). An invalid weight counts as 0."""
    name, *parameters = (piece.strip() for piece in part.split(b";"))
    weight = next((piece[2:] for piece in parameters if piece.startswith(b"q=")), b"1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0.0
