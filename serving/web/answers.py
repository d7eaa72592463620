"""JSON answers, and refusals for exceptions."""

import html
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from serving.errors import ServingError

_CLOSE: Final = (b"connection", b"close")  # the unread rest of a body must not be taken for the next request
_HEADERS: Final = {408: _CLOSE, 413: _CLOSE, 503: (b"retry-after", b"1")}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="{base}static/page.css">
</head>
<body>
<main><section class="panel nothing">
<h1>{title}</h1>
<p>{sentence}</p>
<p><a href="{base}">← To the live page</a></p>
</section></main>
</body>
</html>
"""
_PAGE_HEADERS: Final = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"vary", b"accept"),
]
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


def reads_pages(scope: Scope) -> bool:
    """Whether a request is a browser's, which shows its answer to a person."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return scope["method"] in ("GET", "HEAD") and b"text/html" in accepted


async def send_page(send: Send, sentence: str, scope: Scope, status: int, headers: Iterable[Header] = ()) -> None:
    """Refuse with a page for a person: the sentence, and a link back that works below any path prefix."""
    base = "../" * (scope["path"].count("/") - 1) or "./"
    title = "There is nothing here" if status == 404 else HTTPStatus(status).phrase
    sentence = html.escape(sentence[:1].upper() + sentence[1:])
    body = _PAGE.format(title=title, sentence=sentence, base=base).encode()
    await _send(send, body, status, [*_PAGE_HEADERS, *headers])


async def send_json(send: Send, content: object, status: int = 200, headers: Iterable[Header] = ()) -> None:
    """Answer with JSON."""
    await _send(send, msgspec.json.encode(content), status, [(b"content-type", b"application/json"), *headers])


async def _send(send: Send, body: bytes, status: int, headers: list[Header]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
