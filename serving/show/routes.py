"""Routes of the show: its WebSocket, its world, and Gymnasium's pictures of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, nullcontext
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from serving.episodes.limits import Seed, WorldValues
from serving.episodes.simulation import why_no_pictures
from serving.errors import NoPicturesError, RegistryUnavailableError
from serving.inference.shadow import Shadow
from serving.loop.timeline import Entry
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.show import pixels
from serving.show.commands import DECODER, Allowance, Authorize
from serving.show.history import history
from serving.show.show import Show
from serving.show.stage import Stage
from serving.show.viewer import ShowOverError, Viewer
from serving.web.decoding import decode, fit
from serving.web.operations import Operation, route
from serving.web.security import admits

_FRESH: Final = {"Cache-Control": "no-store"}
_ENDLESS: Final = {"Cache-Control": "no-store", "Connection": "close"}
"""Headers of a stream: no answer follows it on its connection, and later requests are dropped."""
_COMMANDS_A_SECOND: Final = 50
_COMMANDS_AT_ONCE: Final = 100
_LATER: Final = 1013  # a close code of WebSocket: try again later
_AUTHORIZED: Final = [f'{{"type":"authorized","authorized":{answer}}}' for answer in ("false", "true")]
_TOO_MANY: Final = f"a connection may send {_COMMANDS_A_SECOND} commands a second: connect again, and send fewer"


class _PrivateSession(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a private session."""

    seed: Seed = 0
    version: str = ""


class LiveAPI:
    """Every route of the show; `close` ends its streams so that the server can stop."""

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        *,
        token: str | None,
        mlflow_url: str = "",
        shadow: Shadow | None = None,
    ) -> None:
        self.stage = Stage(models, metrics, shadow)
        self.feed = pixels.PixelFeed(self.stage.main, metrics)
        self._models = models
        self._token = token
        self._mlflow_url = mlflow_url
        self._shadow = shadow

    def close(self) -> None:
        """End every stream and show now."""
        self.feed.close()
        self.stage.close()

    def routes(self) -> list[BaseRoute]:
        """The world, its history, pictures, and the WebSocket."""
        frame = Operation(
            "GET", self._frame, "The present step, rendered by Gymnasium", media="image/png", errors=(501, 503)
        )
        world = Operation(
            "PUT",
            self._world,
            "Change fields of the world that the show plays in; {} undoes all changes",
            body=WorldValues,
            answer=WorldValues,
            errors=(400, 401, 408, 413, 415, 503),
        )
        return [
            route("/api/frame.png", frame),
            route("/api/world", world),
            route("/api/history", Operation("GET", self._history, "Versions, drifts and changes", answer=list[Entry])),
            Route("/api/live.mjpeg", self._mjpeg),
            WebSocketRoute("/api/show", self._socket),
        ]

    async def _world(self, scope: Scope, values: dict[str, Any]) -> dict[str, Any]:
        self.stage.change_world(values)
        return self.stage.real_world.changed

    async def _history(self, scope: Scope, body: None) -> list[Entry]:
        changes = tuple(self.stage.real_world.history)
        shadow = self._shadow.status() if self._shadow else None
        return history(self._models, self.stage.loop, changes, mlflow_url=self._mlflow_url, shadow=shadow)

    async def _frame(self, scope: Scope, body: None) -> Response:
        try:
            png = await self.feed.snapshot()
        except (TimeoutError, ShowOverError):
            raise RegistryUnavailableError(f"nothing plays: {self._models.notice}") from None
        return Response(png, media_type="image/png", headers=_FRESH)

    async def _mjpeg(self, request: Request) -> Response:
        query, current = dict(request.query_params), self._models.current
        query.pop("again", None)  # the page's: a browser asks for an address anew only if it differs
        if not query:
            if current is None:
                raise RegistryUnavailableError(f"nothing plays: {self._models.notice}")
            _require_pictures(current)
            return _stream(request, self.feed.shared())
        wanted = fit(query, _PrivateSession)
        reference = wanted.version or self._models.alias or ""
        served = current if current and not wanted.version else await self._models.get(reference)
        _require_pictures(served)
        return _stream(request, self.feed.private(served.policy, wanted.seed), self.feed.private_place())

    async def _socket(self, socket: WebSocket) -> None:
        references = tuple(socket.query_params.get("versions", "").split(","))
        viewer: Viewer[str] = Viewer()
        await socket.accept()
        async with AsyncExitStack() as stack:
            try:
                show = await stack.enter_async_context(self.stage.watching(references, viewer))
            except (ValueError, LookupError, RuntimeError, OSError) as error:
                await _tell(socket, error)
                await socket.close(_LATER if isinstance(error, RegistryUnavailableError) else 1008)
                return
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_send_news(socket, viewer))
                try:
                    await self._obey(socket, show)
                except (WebSocketDisconnect, RuntimeError, KeyError):
                    pass  # the viewer left, perhaps in the middle of a message
                finally:
                    sending.cancel()

    async def _obey(self, socket: WebSocket, show: Show) -> None:
        authorized = self._token is None
        allowance = Allowance(_COMMANDS_A_SECOND, _COMMANDS_AT_ONCE, asyncio.get_running_loop().time)
        while True:
            text = await socket.receive_text()
            if not allowance.take():
                await _tell(socket, ValueError(_TOO_MANY))
                await socket.close(1008, _TOO_MANY)
                return
            try:
                command = decode(DECODER, text)
                if isinstance(command, Authorize):
                    authorized = admits(self._token, command.token)
                    await socket.send_text(_AUTHORIZED[authorized])
                if not authorized:
                    raise PermissionError("this needs the server's token: enter it below the picture")
                if not isinstance(command, Authorize):
                    show.command(command)
            except (ValueError, PermissionError) as error:
                await _tell(socket, error)


def _require_pictures(served: ServedModel) -> None:
    if why := why_no_pictures(served.policy.metadata.environment):
        raise NoPicturesError(why)


def _stream(
    request: Request, pictures: AsyncGenerator[bytes], place: AbstractContextManager[None] | None = None
) -> Response:
    if request.method == "HEAD":
        return _Stream(_nothing(), nullcontext())
    return _Stream(pictures, place or nullcontext())


async def _nothing() -> AsyncGenerator[bytes]:
    no_pictures: tuple[bytes, ...] = ()
    for picture in no_pictures:
        yield picture


class _Stream(StreamingResponse):
    """A stream of pictures. However it ends, its generator is closed and its place is released."""

    def __init__(self, pictures: AsyncGenerator[bytes], place: AbstractContextManager[None]) -> None:
        self._pictures = pictures
        self._place = place
        super().__init__(pictures, media_type=pixels.MEDIA_TYPE, headers=_ENDLESS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            async with aclosing(self._pictures):
                await super().__call__(scope, receive, send)


async def _send_news(socket: WebSocket, viewer: Viewer[str]) -> None:
    try:
        while True:
            for text in await viewer.take():
                if text:
                    await socket.send({"type": "websocket.send", "text": text})
    except ShowOverError:
        await socket.close(1012, "the server is stopping")
    except (WebSocketDisconnect, RuntimeError):
        return  # `_obey` notices this too, and cleans up


async def _tell(socket: WebSocket, error: Exception) -> None:
    await socket.send_text(msgspec.json.encode({"type": "error", "error": str(error)}).decode())
