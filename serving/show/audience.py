"""The viewers of a show, and how often they are sent its status."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from serving.show.viewer import Viewer

_LATEST_NEWS: Final = 0.1
"""Seconds after which a second announcement is sent if no tick came before."""


class Audience:
    """Offers frames and the status to every viewer. `status` makes the text of the status."""

    def __init__(self, status: Callable[[], str]) -> None:
        self.viewers: set[Viewer[str]] = set()
        self.watched = asyncio.Event()
        """Set while there is a viewer."""
        self.changed = False
        """Whether a viewer joined or left since the status was last sent."""
        self._status = status
        self._announced = False
        self._news = False

    def join(self, viewer: Viewer[str], frame: str) -> None:
        """Add a viewer and offer it the status and the latest frame at once."""
        self.viewers.add(viewer)
        self.watched.set()
        viewer.offer(frame=frame or None, status=self._status())
        self.changed = True  # the others get the new number at a later tick, once for all that joined

    def leave(self, viewer: Viewer[str]) -> None:
        """Remove a viewer."""
        self.viewers.discard(viewer)
        if not self.viewers:
            self.watched.clear()
        self.changed = True

    def show(self, frame: str) -> None:
        """Offer a frame to every viewer."""
        for viewer in self.viewers:
            viewer.offer(frame=frame)

    def announce(self) -> None:
        """Offer the status to every viewer: now, or with the next tick if it was offered since the last one."""
        if self._announced:
            if not self._news:
                self._news = True
                with suppress(RuntimeError):  # without an event loop there are only the ticks
                    asyncio.get_running_loop().call_later(_LATEST_NEWS, self._tell_news)
            return
        self._announced, self._news = True, False
        if not self.viewers:
            return
        self.changed = False
        status = self._status()
        for viewer in self.viewers:
            viewer.offer(status=status)

    @contextmanager
    def one_announcement(self) -> Iterator[None]:
        """Send everything that is announced inside as one status, on leaving."""
        self._announced = True
        try:
            yield
        finally:
            self._tell_news()

    def _tell_news(self) -> None:
        self._announced = False
        if self._news:
            self.announce()
