"""JSON answers, and refusals for exceptions."""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from serving.errors import ServingError

_CLOSE: Final = (b"connection", b"close")  # the unread rest of a body must not be taken for the next request
_HEADERS: Final = {408: _CLOSE, 413: _CLOSE, 503: (b"retry-after", b"1")}
Header = tuple[bytes, bytes]


class Error(Struct, frozen=True):
    """The reason of a refusal, in one sentence."""

    error: str


def refusal(error: Exception, scope: Scope) -> tuple[int, str, list[Header]]:
    """Status, sentence and headers for an exception; status 500 for an unforeseen one."""
    headers: list[Header] = []
    sentence = str(error)
    if isinstance(error, HTTPException):
        status, sentence = error.status_code, error.detail
        headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        if status == 404 and sentence == "Not Found":  # starlette's router raised it
            sentence = f"there is nothing at {scope['path'][:120]!r}; /openapi.json lists what there is"
        elif status == 405:
            sentence = f"{scope['method']} is not allowed at {scope['path'][:120]!r}"
    elif isinstance(error, ServingError):
        status = error.status
    else:
        status = 400 if isinstance(error, ValueError) else 500
    if status == 500:
        sentence = "the server failed; its log says why"
    if status in _HEADERS:
        headers.append(_HEADERS[status])
    return status, sentence, headers


async def send_json(send: Send, content: object, status: int = 200, headers: Iterable[Header] = ()) -> None:
    """Answer with JSON."""
    body = msgspec.json.encode(content)
    length = (b"content-length", str(len(body)).encode())
    start = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
