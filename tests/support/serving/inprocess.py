"""A server in a thread of this process, with a show of its own that plays by the clock or step by step."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from serving.application import App
from serving.errors import UnknownModelError
from serving.models.follower import Models
from serving.models.source import RunningTraining, Snapshot, Version
from serving.show.pace import Pace, RealTime
from serving.web.proxies import Network
from serving.web.server import Server
from tests.support.serving.policies import BALANCES, FALLS, PROPERTIES, linear_model

MODEL = "dqn-CartPole-v1"
SEEN = PROPERTIES | {"observed": "[[-2, 2], [-2, 2], [-0.25, 0.25], [-3, 3]]"}


class MemoryRegistry:
    """Versions and aliases in memory."""

    name = MODEL

    def __init__(self, *models: bytes, **aliases: str) -> None:
        self.contents = {str(number): model for number, model in enumerate(models, start=1)}
        self.aliases = dict(aliases)
        self.files_of_learning: dict[str, bytes] = {}
        self.running: list[RunningTraining] = []
        self.populations: dict[str, bytes] = {}

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        if not self.contents:
            raise UnknownModelError(f"the registry has no model {self.name}")
        versions = {number: Version(number=number, source=f"memory:{number}") for number in self.contents}
        return Snapshot(aliases=dict(self.aliases), versions=versions)

    def fetch(self, version: Version) -> bytes:
        return self.contents[version.number]

    def learning(self, version: Version) -> dict[str, bytes]:
        return self.files_of_learning

    def trainings(self) -> Sequence[RunningTraining]:
        return self.running

    def population(self, training: RunningTraining) -> bytes:
        return self.populations[training.run_id]


def two_versions() -> MemoryRegistry:
    """A champion (version 1) that balances and a challenger (version 2) that falls."""
    good, bad = linear_model(BALANCES, bias=95, properties=SEEN), linear_model(FALLS, bias=20, properties=SEEN)
    return MemoryRegistry(good, bad, champion="1", challenger="2")


class StepByStep:
    """A show's pace in the test's hand."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[None] = asyncio.Queue()
        self._stepping = False

    async def wait(self, period: float) -> None:
        if self._stepping:
            self._steps.task_done()
        self._stepping = False
        await self._steps.get()
        self._stepping = True

    async def take(self, steps: int) -> None:
        for _ in range(steps):
            self._steps.put_nowait(None)
        await self._steps.join()


@dataclass
class Serving:
    url: str
    app: App
    models: Models
    server: "_Server"
    pace: Pace

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **options)

    def step(self, steps: int = 1) -> None:
        """Let the main show take its next steps, and return when it has."""
        assert isinstance(self.pace, StepByStep)
        asyncio.run_coroutine_threadsafe(self.pace.take(steps), self.server.loop).result(60)


class _Server(Server):
    loop: asyncio.AbstractEventLoop
    started_event: threading.Event
    ended: threading.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.started_event.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.ended.set()


@contextmanager
def serving(
    registry: MemoryRegistry | None = None,
    *,
    alias: str = "champion",
    stepped: bool = False,
    port: int = 0,
    ready: bool = True,
    proxies: Sequence[Network] = (),
    **options: Any,
) -> Iterator[Serving]:
    """An application behind uvicorn on a free port of its own."""
    models = Models(registry or two_versions(), alias=alias, version=None, poll_seconds=0.05)
    playing = threading.Event()
    models.listeners.append(lambda: playing.set() if models.current else None)
    app = App(models, **options)
    pace: Pace = StepByStep() if stepped else RealTime()
    if app.live:
        paces = iter([pace])  # the main show comes first
        app.live.stage.pace = lambda: next(paces, RealTime())
    server = _Server(app, "in process", proxies=proxies)
    server.started_event, server.ended = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert server.started_event.wait(60)
            assert not ready or playing.wait(60), models.notice
            yield Serving(f"http://127.0.0.1:{listener.getsockname()[1]}", app, models, server, pace)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
