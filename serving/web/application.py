"""The application: routes, and what lives as long as the server does."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from serving.episodes.physics import parse_seed
from serving.episodes.recording import STATIC, RecordingError, replay_csp
from serving.episodes.replays import FORMATS, Replays, summary
from serving.inference.protocol import ProtocolError
from serving.inference.routes import InferenceAPI
from serving.live import pixels
from serving.live.show import describe
from serving.live.shows import Shows
from serving.live.viewers import ShowOverError, Viewer
from serving.models.follower import Models
from serving.models.registry import RegistryUnavailableError, UnknownModelError
from serving.policy import OnnxPolicy
from serving.web import openapi
from serving.web.bodies import read_body
from serving.web.metrics import CONTENT_TYPE, Metrics
from serving.web.security import CSP, WEBHOOK_PATH, Guard, Webhooks, admits

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATUS: Final[list[tuple[type[Exception], int]]] = [
    (UnknownModelError, 404),
    (RegistryUnavailableError, 503),
    (RecordingError, 501),
    (ValueError, 400),
]


class App:
    """An ASGI application around one models. `close` ends its streams, so that a server can drain."""

    def __init__(
        self,
        models: Models,
        *,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        webhook_secret: str | None = None,
        mlflow_url: str = "",
        body_seconds: float = 10.0,
    ) -> None:
        self.models = models
        self.metrics = Metrics()
        self.shows = Shows(models, self.metrics)
        self.feed = pixels.PixelFeed(self.shows.main, self.metrics)
        self.replays = Replays(models, self.metrics)
        self._token = token
        self._mlflow_url = mlflow_url.rstrip("/")
        self._webhooks = Webhooks(webhook_secret) if webhook_secret else None
        self._body_seconds = body_seconds
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in _TYPES}
        inference = InferenceAPI(models, self.metrics, body_seconds=body_seconds)
        starlette = Starlette(
            routes=[*inference.routes(), *self._routes()],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _http_error, **{kind: _known_error for kind, _ in _STATUS}},
        )
        starlette.router.redirect_slashes = False
        self.asgi = Guard(inference.express(starlette), metrics=self.metrics, hosts=hosts, token=token)

    def close(self) -> None:
        """End every stream and show, now."""
        self.feed.close()
        self.shows.close()

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._page),
            Route("/static/{file}", self._page),
            Route("/openapi.json", self._openapi),
            Route("/metrics", self._metrics),
            Route("/api/status", self._status),
            Route("/api/frame.png", self._frame),
            Route("/api/live.mjpeg", self._mjpeg),
            Route("/api/episodes", self._episodes, methods=["GET", "POST"]),
            Route("/api/episodes/{file}", self._episode),
            Route(WEBHOOK_PATH, self._webhook, methods=["POST"]),
            WebSocketRoute("/api/show", self._socket),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self.models.run())
        self.shows.start()
        try:
            yield
        finally:
            following.cancel()
            self.close()
            with suppress(asyncio.CancelledError):
                await following

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("file", "index.html")
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404, f"there is no file {name[:80]!r}")
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": CSP}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[name[name.rindex(".") :]])

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi.document(self.models.name))

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.expose(self.models), media_type=CONTENT_TYPE)

    async def _status(self, request: Request) -> Response:
        current = self.models.current
        return _json(
            {
                "model": self.models.name,
                "ready": current is not None,
                "notice": self.models.notice,
                "current": describe(self.models, current) if current else None,
                "aliases": dict(self.models.snapshot.aliases),
                "versions": sorted(self.models.snapshot.versions, key=int, reverse=True),
                "swaps": self.models.swaps,
                "failed_swaps": self.models.failed_swaps,
                "follower_errors": self.models.errors,
                "registry_age_seconds": self.models.registry_age,
                "registry_reachable": bool(self.models.reachable),
                "locked": self._token is not None,
                "mlflow_url": self._mlflow_url,
            }
        )

    async def _frame(self, request: Request) -> Response:
        try:
            png = await self.feed.snapshot()
        except (TimeoutError, ShowOverError):
            raise RegistryUnavailableError(f"nothing plays: {self.models.notice}") from None
        return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})

    async def _mjpeg(self, request: Request) -> Response:
        query = request.query_params
        if unknown := set(query) - {"seed", "version"}:
            raise ValueError(f"unknown parameter {min(unknown)[:40]!r}; there are seed and version")
        headers = {"Cache-Control": "no-store"}
        if not query:
            if self.models.current is None:
                raise RegistryUnavailableError(f"nothing plays: {self.models.notice}")
            return StreamingResponse(self.feed.shared(), media_type=pixels.MEDIA_TYPE, headers=headers)
        seed = query.get("seed", "0")
        number = parse_seed(int(seed) if seed.isascii() and seed.isdecimal() and len(seed) < 12 else seed)
        reference = query.get("version") or self.models.alias or ""
        current = self.models.current
        served = current if current and "version" not in query else await self.models.get(reference)
        if not self.feed.admit():
            raise HTTPException(
                429, f"{pixels.PRIVATE_LIMIT} private sessions are running already: watch the shared one"
            )
        return _PrivateStream(self.feed, served.policy, number)

    async def _episodes(self, request: Request) -> Response:
        if request.method != "POST":
            return _json(self.replays.list())
        body = await read_body(request.scope, request.receive, seconds=self._body_seconds)
        try:
            content = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise ValueError(f"the request is not valid JSON: {error}") from error
        return _json(summary(await self.replays.create(content)), 201)

    async def _episode(self, request: Request) -> Response:
        replay_id, _, kind = request.path_params["file"].partition(".")
        replay = self.replays.get(replay_id)
        if replay is None:
            raise HTTPException(
                404, f"there is no replay {replay_id[:40]!r} (any more): POST /api/episodes plays it again"
            )
        if kind not in FORMATS:
            raise HTTPException(404, f"a replay comes as .{', .'.join(FORMATS)}, not {kind[:40]!r}")
        content = await self.replays.file(replay, kind)
        headers = {"Content-Security-Policy": replay_csp(content)} if kind == "html" else {}
        if "download" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{replay.id}.{kind}"'
        return Response(content, media_type=FORMATS[kind][0], headers=headers)

    async def _webhook(self, request: Request) -> Response:
        if self._webhooks is None:
            raise HTTPException(404, "webhooks are off: start the server with SERVING_WEBHOOK_SECRET to turn them on")
        body = await read_body(request.scope, request.receive, seconds=self._body_seconds)
        if refusal := self._webhooks.refusal(dict(request.headers), body, time.time()):
            raise HTTPException(*refusal)
        self.models.refresh()
        return _json({"accepted": True}, 202)

    async def _socket(self, socket: WebSocket) -> None:
        references = tuple(socket.query_params.get("versions", "").split(","))
        viewer: Viewer[str] = Viewer()
        await socket.accept()
        try:
            show = await self.shows.join(references, viewer)
        except (ValueError, LookupError, RuntimeError, OSError) as error:
            await _tell(socket, error)
            await socket.close(1008)
            return
        sending = asyncio.create_task(_send_news(socket, viewer))
        authorized = self._token is None
        try:
            while True:
                message = _parse_command(await socket.receive_text())
                try:
                    if isinstance(message, dict) and message.get("do") == "authorize":
                        authorized = admits(self._token, message.get("token"))
                    if not authorized:
                        raise PermissionError("this needs the server's token: enter it at the bottom of the page")
                    if not isinstance(message, dict) or message.get("do") != "authorize":
                        show.command(message)
                except (ValueError, PermissionError) as error:
                    await _tell(socket, error)
        except (WebSocketDisconnect, RuntimeError, KeyError):
            pass  # the viewer left, perhaps in the middle of a message
        finally:
            sending.cancel()
            self.shows.leave(show, viewer)


class _PrivateStream(StreamingResponse):
    """A private session's pictures, whose place is given back however it ends."""

    def __init__(self, feed: pixels.PixelFeed, policy: OnnxPolicy, seed: int) -> None:
        self._feed = feed
        self._pictures = feed.private(policy, seed)
        super().__init__(self._pictures, media_type=pixels.MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._pictures):
                await super().__call__(scope, receive, send)
        finally:
            self._feed.release()


async def _send_news(socket: WebSocket, viewer: Viewer[str]) -> None:
    try:
        while True:
            for text in await viewer.take():
                if text:
                    await socket.send({"type": "websocket.send", "text": text})
    except ShowOverError:
        await socket.close(1012, "the server is stopping")
    except (WebSocketDisconnect, RuntimeError):
        return  # the receiving side notices too, and cleans up


async def _tell(socket: WebSocket, error: Exception) -> None:
    await socket.send_text(orjson.dumps({"type": "error", "error": str(error)}).decode())


def _parse_command(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404 and message == "Not Found":
        message = f"there is nothing at {request.url.path[:120]!r}; /openapi.json lists what there is"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed at {request.url.path[:120]!r}"
    response = _json({"error": message}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _known_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ProtocolError):
        response = _json({"error": str(error)}, error.status)
        response.headers.update(error.headers)
        return response
    return _json({"error": str(error)}, next(status for kind, status in _STATUS if isinstance(error, kind)))
