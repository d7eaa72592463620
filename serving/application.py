"""The application: one router over the routes of all rooms, and the tasks that run as long as the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Scope

from serving.episodes.kept import Kept
from serving.episodes.milestones import Learning
from serving.episodes.replays import Replays
from serving.episodes.routes import EpisodesAPI
from serving.episodes.training import Training
from serving.inference.routes import InferenceAPI
from serving.inference.shadow import Shadow
from serving.loop.events import EventSender
from serving.loop.reports import Drift, PlayedEpisode, PresentEpisode
from serving.loop.routes import LoopAPI
from serving.metrics.inputs_by_version import VersionInputs
from serving.metrics.metrics import CONTENT_TYPE, Metrics
from serving.models.follower import Models
from serving.models.served import Description
from serving.page.files import Page
from serving.show.routes import LiveAPI
from serving.web import openapi
from serving.web.operations import JSON, Operation, route
from serving.web.security import Guard
from serving.web.webhooks import WEBHOOK_PATH, Webhooks


class Status(Struct, frozen=True, kw_only=True):
    """The version that plays, and the state of following the registry."""

    model: str
    ready: bool
    notice: str
    """A sentence about a problem; empty if there is none."""
    current: Description | None
    aliases: dict[str, str]
    versions: list[str]
    swaps: int
    failed_swaps: int
    follower_errors: int
    registry_age_seconds: float | None
    """Since the registry last answered; None before it first did."""
    registry_reachable: bool
    drift: Drift | None
    """The drift that is not over."""
    recent_episodes: list[PlayedEpisode]
    """The last 32, oldest first."""
    episode: PresentEpisode | None
    locked: bool
    """Whether commands need the server's token."""
    mlflow_url: str


class Accepted(Struct, frozen=True):
    """A delivery was accepted."""

    accepted: bool = True


class App:
    """An ASGI application that serves one model. Without `show` it has no state, so replicas are interchangeable."""

    def __init__(
        self,
        models: Models,
        *,
        show: bool = True,
        shadow: Shadow | None = None,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        webhook_secret: str | None = None,
        mlflow_url: str = "",
        prefect_url: str = "",
        prefect_auth: str = "",
        serving_url: str = "",
        replays: Path | None = None,
    ) -> None:
        self.models = models
        self.metrics = Metrics()
        self.replays = Replays(models, self.metrics, Kept(replays) if replays and show else None)
        self._mlflow_url = mlflow_url.rstrip("/")
        self.shadow = shadow
        self.live = None
        if show:
            self.live = LiveAPI(models, self.metrics, token=token, mlflow_url=self._mlflow_url, shadow=shadow)
        self.events: EventSender | None = None
        if self.live and prefect_url:
            loop = self.live.stage.loop
            self.events = EventSender(
                loop, models, self.metrics, api_url=prefect_url, auth=prefect_auth, serving_url=serving_url
            )
            loop.sender = self.events
        self._token = token
        self._webhooks = Webhooks(webhook_secret) if webhook_secret else None
        self._drift = ""
        if shadow:
            self.metrics.register(shadow)
            if self.live:
                self.live.stage.loop.listeners.append(self._give_back_in_drift)
        inference = InferenceAPI(models, self.metrics, shadow)
        self.training = Training(models, mlflow_url=self._mlflow_url)
        episodes = EpisodesAPI(self.replays, Learning(models), self.training, keep=show)
        page: list[BaseRoute] = [Route("/", self._no_show)]
        if self.live:
            page = [*Page().routes(), *self.live.routes(), *LoopAPI(self.live.stage.loop, models).routes()]
        router = Router(
            [*inference.routes(), *self._routes(), *episodes.routes(), *page],
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        self._document = msgspec.json.encode(openapi.document(router.routes))
        self.asgi = Guard(router, count=self.metrics.requests.count, hosts=hosts, token=token)

    def close(self) -> None:
        """End every stream and show now, so that the server can stop."""
        self.training.close()
        if self.live:
            self.live.close()
        if self.shadow:
            self.shadow.close()

    def _give_back_in_drift(self) -> None:
        """Return the canary once a drift: what was compared before says nothing of another world."""
        drift = self.live.stage.loop.drift if self.live else None
        if self.shadow and drift and drift.id != self._drift:
            self._drift = drift.id
            self.shadow.give_back(f"the world has changed: {drift.finding}")

    def _routes(self) -> list[BaseRoute]:
        webhook = Operation(
            "POST",
            self._webhook,
            "MLflow's webhook: read the registry now",
            body=dict,
            decoded=False,
            answer=Accepted,
            status=202,
            errors=(401, 404, 408, 409, 413, 415),
        )
        return [
            Route("/openapi.json", self._openapi),
            route("/metrics", Operation("GET", self._expose, "Prometheus metrics", media="text/plain")),
            route("/api/status", Operation("GET", self._status, "What plays", answer=Status)),
            route(
                "/api/seen",
                Operation("GET", self._inputs, "The inputs of the version that plays", answer=VersionInputs),
            ),
            route(WEBHOOK_PATH, webhook),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.models.run()), asyncio.create_task(self.replays.restore())]
        if self.events:
            tasks.append(asyncio.create_task(self.events.run()))
        if self.live:
            self.live.stage.start()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.close()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _no_show(self, request: Request) -> Response:
        said = {"model": self.models.name, "show": "off (--no-show)", "documentation": "/openapi.json"}
        return Response(msgspec.json.encode(said), media_type=JSON)

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type=JSON)

    async def _expose(self, scope: Scope, body: None) -> Response:
        written = await asyncio.to_thread(self.metrics.collect(self.models).write)
        return Response(written, media_type=CONTENT_TYPE)

    async def _status(self, scope: Scope, body: None) -> Status:
        models, current = self.models, self.models.current
        loop = self.live.stage.loop if self.live else None
        return Status(
            model=models.name,
            ready=current is not None,
            notice=models.notice,
            current=models.describe(current) if current else None,
            aliases=dict(models.snapshot.aliases),
            versions=sorted(models.snapshot.versions, key=int, reverse=True),
            swaps=models.swaps,
            failed_swaps=models.failed_swaps,
            follower_errors=models.errors,
            registry_age_seconds=models.registry_age,
            registry_reachable=bool(models.reachable),
            drift=loop.drift if loop else None,
            recent_episodes=list(loop.episodes) if loop else [],
            episode=loop.playing if loop else None,
            locked=self._token is not None,
            mlflow_url=self._mlflow_url,
        )

    async def _inputs(self, scope: Scope, body: None) -> VersionInputs:
        return self.metrics.inputs.summary(self.models.current)

    async def _webhook(self, scope: Scope, body: bytes) -> Accepted:
        if self._webhooks is None:
            raise HTTPException(404, "webhooks are off: start the server with SERVING_WEBHOOK_SECRET to turn them on")
        self._webhooks.check(dict(Request(scope).headers), body, time.time())
        self.models.refresh()
        return Accepted()
