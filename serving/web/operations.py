"""Declares operations: the code that answers each, and its description in /openapi.json."""

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.web.answers import send_json
from serving.web.bodies import read_body
from serving.web.decoding import decode

JSON: Final = "application/json"


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    answering: Callable[[Scope, Any], Awaitable[object]]
    """Takes the scope and the body; returns the value of the JSON answer, or an ASGI application that answers."""
    summary: str
    _: KW_ONLY
    body: Any = None
    """The type of the body's JSON; an empty body counts as `{}`. With None the body is not read."""
    decoded: bool = True
    """Whether the body is decoded before `answering` takes it; otherwise it takes the bytes."""
    answer: Any = None
    """The type of the JSON answer; None leaves it undocumented."""
    media: str = JSON
    status: int = 200
    errors: tuple[int, ...] = ()
    """Statuses of refusals; they are answered in JSON."""


class Resource:
    """The operations of one path, as an ASGI application."""

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self.operations = operations
        self._methods = {
            operation.method: (
                operation,
                msgspec.json.Decoder(operation.body) if operation.decoded and operation.body else None,
            )
            for operation in operations
        }
        if "GET" in self._methods:
            self._methods["HEAD"] = self._methods["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the operation of the method; the router admits no other method."""
        operation, decoder = self._methods[scope["method"]]
        body: Any = await read_body(scope, receive) if operation.body else None
        if decoder:
            body = decode(decoder, body or b"{}")
        answer = await operation.answering(scope, body)
        if callable(answer):
            await answer(scope, receive, send)
        else:
            await send_json(send, answer, operation.status)


def route(path: str, *operations: Operation) -> Route:
    """The route of a path with all its operations."""
    return Route(path, Resource(operations), methods=[operation.method for operation in operations])
