"""The outermost layer: checks each request, adds security headers to each answer, and counts it."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.web.answers import Error, reads_pages, refusal, send_json, send_page
from serving.web.hosts import Hosts
from serving.web.webhooks import WEBHOOK_PATH

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_PROBED: Final = frozenset(("/v2/health/live", "/v2/health/ready", "/metrics"))
"""Answered under any Host: probes and scrapers use an address, change nothing, and read nothing private."""
_LOG: Final = logging.getLogger("serving")


Count = Callable[[str, str, int, float], None]
"""Called with route, method, status and seconds of each answer."""


class Guard:
    """Checks Host, Origin and bearer token; adds security headers; counts and times; sends no traceback."""

    def __init__(self, app: ASGIApp, *, count: Count, hosts: Iterable[str], token: str | None) -> None:
        self._app = app
        self._count = count
        self._hosts = Hosts((*LOOPBACK, *filter(None, hosts)))
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope["app"] = (
            self._app
        )  # with an app in the scope starlette's router raises its refusals, and `refusal` answers them
        if scope["type"] == "websocket":
            try:
                self._check(scope)
            except HTTPException as error:
                await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:120]})
                return
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, finish)
        except Exception as error:  # the client gets a sentence, and the log gets the traceback
            if status:
                raise
            code, sentence, headers = refusal(error, scope)
            if code == 500:
                _LOG.exception("a request failed", extra={"path": scope["path"]})
            if reads_pages(scope):
                await send_page(finish, sentence, scope, code, headers)
            else:
                await send_json(finish, Error(sentence), code, headers)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._count(route, scope["method"], status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        host = origin = authorization = b""
        hosts = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host, hosts = value, hosts + 1
            elif name == b"origin":
                origin = value
            elif name == b"authorization":
                authorization = value
        if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
            raise HTTPException(400, f"a request has one Host header, this one has {hosts or 'none'}")
        if not self._hosts.admit(host.decode("latin-1").lower()) and scope["path"] not in _PROBED:
            raise HTTPException(
                421, f"unknown Host {host[:80].decode('latin-1')!r}: start the server with --allowed-hosts to admit it"
            )
        method = scope.get("method", "WEBSOCKET")
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        if origin and _netloc(origin.decode("latin-1")) != host.decode("latin-1").lower():
            raise HTTPException(
                403,
                "this request comes from a page of another origin; behind a reverse proxy, pass Host on or start with "
                f"--trusted-proxies (Origin {origin[:80].decode('latin-1')}, Host {host[:80].decode('latin-1')})",
            )
        path = scope["path"]
        if method != "WEBSOCKET" and path.startswith("/api/") and path != WEBHOOK_PATH:
            scheme, _, given = authorization.decode("latin-1").partition(" ")
            if self._token is not None and not (scheme.lower() == "bearer" and admits(self._token, given.strip())):
                raise HTTPException(401, "this needs the server's token: send the header Authorization: Bearer TOKEN")


def admits(expected: str | None, given: object) -> bool:
    """Compare tokens in constant time; without an expected token every request is admitted."""
    if expected is None:
        return True
    return isinstance(given, str) and hmac.compare_digest(expected.encode(), given.encode())


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # not a URL, so the origin of no page
        return None
