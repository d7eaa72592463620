"""The application: one router over every room's routes, and what lives as long as the server does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router

from serving.episodes.replays import Replays
from serving.episodes.routes import EpisodesAPI
from serving.inference.routes import InferenceAPI
from serving.live.routes import LiveAPI
from serving.live.show import describe
from serving.models.follower import Models
from serving.web import openapi
from serving.web.answers import json_response
from serving.web.bodies import read_body
from serving.web.metrics import CONTENT_TYPE, Metrics
from serving.web.security import WEBHOOK_PATH, Guard, Webhooks


class App:
    """An ASGI application that serves one model; without `show` it holds nothing that another replica would miss."""

    def __init__(
        self,
        models: Models,
        *,
        show: bool = True,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        webhook_secret: str | None = None,
        mlflow_url: str = "",
        body_seconds: float = 10.0,
    ) -> None:
        self.models = models
        self.metrics = Metrics()
        self.replays = Replays(models, self.metrics)
        self.live = LiveAPI(models, self.metrics, token=token) if show else None
        self._token = token
        self._mlflow_url = mlflow_url.rstrip("/")
        self._webhooks = Webhooks(webhook_secret) if webhook_secret else None
        self._body_seconds = body_seconds
        inference = InferenceAPI(models, self.metrics, body_seconds=body_seconds)
        episodes = EpisodesAPI(self.replays, keep=show, body_seconds=body_seconds)
        page = self.live.routes() if self.live else [Route("/", self._no_show)]
        router = Router(
            [*inference.routes(), *self._routes(), *episodes.routes(), *page],
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        self.asgi = Guard(router, metrics=self.metrics, hosts=hosts, token=token)

    def close(self) -> None:
        """End every stream and show, now, so that a server can drain."""
        if self.live:
            self.live.close()

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/openapi.json", self._openapi),
            Route("/metrics", self._metrics),
            Route("/api/status", self._status),
            Route(WEBHOOK_PATH, self._webhook, methods=["POST"]),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        following = asyncio.create_task(self.models.run())
        if self.live:
            self.live.shows.start()
        try:
            yield
        finally:
            following.cancel()
            self.close()
            with suppress(asyncio.CancelledError):
                await following

    async def _no_show(self, request: Request) -> Response:
        return json_response({"model": self.models.name, "show": "off (--no-show)", "documentation": "/openapi.json"})

    async def _openapi(self, request: Request) -> Response:
        return json_response(openapi.document(self.models.name, show=self.live is not None))

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.expose(self.models), media_type=CONTENT_TYPE)

    async def _status(self, request: Request) -> Response:
        models, current = self.models, self.models.current
        return json_response(
            {
                "model": models.name,
                "ready": current is not None,
                "notice": models.notice,
                "current": describe(models, current) if current else None,
                "aliases": dict(models.snapshot.aliases),
                "versions": sorted(models.snapshot.versions, key=int, reverse=True),
                "swaps": models.swaps,
                "failed_swaps": models.failed_swaps,
                "follower_errors": models.errors,
                "registry_age_seconds": models.registry_age,
                "registry_reachable": bool(models.reachable),
                "locked": self._token is not None,
                "mlflow_url": self._mlflow_url,
            }
        )

    async def _webhook(self, request: Request) -> Response:
        if self._webhooks is None:
            raise HTTPException(404, "webhooks are off: start the server with SERVING_WEBHOOK_SECRET to turn them on")
        body = await read_body(request.scope, request.receive, seconds=self._body_seconds)
        self._webhooks.check(dict(request.headers), body, time.time())
        self.models.refresh()
        return json_response({"accepted": True}, 202)
