"""Gymnasium's pictures of the show, rendered once a step for all viewers."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from serving.episodes.limits import MAX_SEED
from serving.episodes.recording import encode
from serving.episodes.simulation import Simulation
from serving.errors import NoPicturesError, RequestError
from serving.metrics.metrics import Metrics
from serving.policy import OnnxPolicy
from serving.show.pace import RealTime
from serving.show.show import Show
from serving.show.viewer import ShowOverError, Viewer

BOUNDARY: Final = "frame"
MEDIA_TYPE: Final = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
PRIVATE_LIMIT: Final = 4


class PixelFeed:
    """JPEG frames of the main show, rendered only while there are viewers."""

    def __init__(self, show: Show, metrics: Metrics) -> None:
        self._show = show
        self._gauge = metrics.viewers.labels("pixels")
        self._viewers: set[Viewer[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._private = 0
        self._picture: asyncio.Task[bytes] | None = None

    async def shared(self) -> AsyncGenerator[bytes]:
        """The main show as MJPEG parts; a slow client gets the newest frame, never a queue."""
        viewer: Viewer[bytes] = Viewer()
        self._viewers.add(viewer)
        self._gauge.inc()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._render())
        try:
            with suppress(ShowOverError):
                while True:
                    _, jpeg = await viewer.take()
                    if jpeg:
                        yield _part(jpeg)
        finally:
            self._gauge.dec()
            self._viewers.discard(viewer)
            if not self._viewers and self._task:
                self._task.cancel()
                self._task = None  # a viewer that joins before it has ended starts another task

    @contextmanager
    def private_place(self) -> Iterator[None]:
        """Take one of the places for private sessions while inside.

        Raises:
            RequestError: if all are taken.
        """
        if self._private >= PRIVATE_LIMIT:
            raise RequestError(f"{PRIVATE_LIMIT} private sessions are running already: watch the shared one", 429)
        self._private += 1
        try:
            yield
        finally:
            self._private -= 1

    async def private(self, policy: OnnxPolicy, seed: int) -> AsyncGenerator[bytes]:
        """Episodes for one viewer as MJPEG parts, beginning with a seed; take a `private_place` first."""
        simulation = Simulation(policy.metadata.environment, policy.metadata.world, render_mode="rgb_array")
        self._gauge.inc()
        pace = RealTime()
        try:
            while not self._show.closed:
                if simulation.over:
                    simulation.reset(seed)
                    seed = (seed + 1) % (MAX_SEED + 1)
                else:
                    simulation.step(policy)
                yield _part(await asyncio.to_thread(lambda: encode(simulation.render(), "JPEG")))
                await pace.wait(1 / simulation.fps)
        finally:
            simulation.close()
            self._gauge.dec()

    async def snapshot(self) -> bytes:
        """The present state as PNG; the show runs for it. Concurrent calls share one picture.

        Raises:
            TimeoutError: if nothing plays.
        """
        if self._picture is None or self._picture.done():
            self._picture = asyncio.create_task(self._draw())
        return await asyncio.shield(self._picture)

    async def _draw(self, seconds: float = 2.0) -> bytes:
        """One picture.

        Raises:
            TimeoutError: if nothing plays.
        """
        viewer: Viewer[str] = Viewer(counted=False)
        self._show.join(viewer)
        try:
            async with asyncio.timeout(seconds):
                while not self._show.players or not self._show.frame:
                    await viewer.take()
            return await asyncio.to_thread(encode, self._show.players[0].simulation.render(), "PNG")
        finally:
            self._show.leave(viewer)

    def close(self) -> None:
        """End every stream."""
        for viewer in self._viewers:
            viewer.dismiss()
        if self._task:
            self._task.cancel()

    async def _render(self) -> None:
        newest: Viewer[str] = Viewer(counted=False)
        self._show.join(newest)
        try:
            while True:
                _, frame = await newest.take()
                if frame is None or not self._show.players:
                    continue
                picture = self._show.players[0].simulation.render()
                jpeg = await asyncio.to_thread(encode, picture, "JPEG")
                for viewer in self._viewers:
                    viewer.offer(frame=jpeg)
        except ShowOverError:
            return
        except NoPicturesError:  # another version plays now, or the environment can no longer draw
            for viewer in self._viewers:
                viewer.dismiss()
        finally:
            self._show.leave(newest)


def _part(jpeg: bytes) -> bytes:
    return b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (
        BOUNDARY.encode(),
        len(jpeg),
        jpeg,
    )
