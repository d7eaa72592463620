"""The stage: all shows that run at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from serving.episodes.simulation import Simulation
from serving.errors import RegistryUnavailableError
from serving.inference.shadow import Shadow
from serving.loop.closed_loop import ClosedLoop
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.show.pace import Pace, RealTime
from serving.show.show import Show
from serving.show.viewer import Viewer
from serving.show.world import RealWorld

_SHOWS: Final = 8


class Stage:
    """The main show, and one for each other choice of versions that has viewers."""

    def __init__(self, models: Models, metrics: Metrics, shadow: Shadow | None = None) -> None:
        self.real_world = RealWorld()
        self.pace: Callable[[], Pace] = RealTime
        self.loop = ClosedLoop(metrics)
        self.main = Show(models, metrics, real_world=self.real_world, loop=self.loop, shadow=shadow)
        self._models = models
        self._metrics = metrics
        self._gauge = metrics.viewers.labels("state")
        self._shows: dict[tuple[str, ...], tuple[Show, asyncio.Task[None]]] = {}

    def start(self) -> None:
        """Start the main show."""
        self._shows[self.main.references] = (self.main, asyncio.create_task(self.main.run(self.pace())))

    @asynccontextmanager
    async def watching(self, references: tuple[str, ...], viewer: Viewer[str]) -> AsyncIterator[Show]:
        """Watch the show of these versions or aliases while inside. Any but the main show ends with its last viewer.

        Raises:
            ValueError: for more than two, or when too many different shows run already.
            UnknownModelError, RegistryUnavailableError: if a version cannot be loaded.
        """
        show = await self._show(references)
        with self._gauge.track_inprogress():
            try:
                show.join(viewer)
                yield show
            finally:
                show.leave(viewer)
                if not show.viewers and show is not self.main and show.references in self._shows:
                    self._shows.pop(show.references)[1].cancel()
                    show.close()

    async def _show(self, references: tuple[str, ...]) -> Show:
        if not 1 <= len(references) <= 2:
            raise ValueError("a show has one or two versions, as in ?versions=champion,2")
        for reference in references:
            if reference:
                await self._models.get(reference)
        if references not in self._shows:
            if len(self._shows) >= _SHOWS:
                raise ValueError(f"{_SHOWS} different shows are running already: join one of them or wait")
            show = Show(self._models, self._metrics, references, real_world=self.real_world)
            self._shows[references] = (show, asyncio.create_task(show.run(self.pace())))
        return self._shows[references][0]

    def change_world(self, values: object) -> None:
        """Change the world of every show, as `RealWorld.change` does.

        Raises:
            ValueError: if the values are not a world, or the environment does not support it.
            RegistryUnavailableError: if nothing plays yet.
        """
        served = self.main.players[0].served if self.main.players else self._models.current
        if served is None:
            raise RegistryUnavailableError(f"nothing plays: {self._models.notice}")
        metadata = served.policy.metadata
        tried = Simulation(metadata.environment, self.real_world.preview(values, metadata))
        try:
            tried.reset(0)
        finally:
            tried.close()
        self.real_world.change(values, metadata)
        for show in {self.main, *(show for show, _ in self._shows.values())}:
            show.enter_world()

    def close(self) -> None:
        """End every show."""
        self.loop.close()
        for show, task in self._shows.values():
            task.cancel()
            show.close()
        self._shows.clear()
