"""One viewer of a show, who is sent the newest frame, never a queue of them."""

import asyncio
from typing import Generic, TypeVar

Frame = TypeVar("Frame", str, bytes)


class ShowOverError(Exception):
    """The server is stopping: nothing more will come."""


class Viewer(Generic[Frame]):
    """What one viewer has not been sent yet: only ever the newest frame and the newest status.

    What takes frames for others, as the pixel feed does, is not `counted` among the viewers.
    """

    def __init__(self, *, counted: bool = True) -> None:
        self.counted = counted
        self._frame: Frame | None = None
        self._status: str | None = None
        self._over = False
        self._news = asyncio.Event()

    def offer(self, *, frame: Frame | None = None, status: str | None = None) -> None:
        """Replace what waits to be sent."""
        self._frame = frame or self._frame
        self._status = status or self._status
        self._news.set()

    def dismiss(self) -> None:
        """End this viewer's wait."""
        self._over = True
        self._news.set()

    async def take(self) -> tuple[str | None, Frame | None]:
        """Wait for news; returns status and frame, either of which may be None.

        Raises:
            ShowOverError: once dismissed.
        """
        await self._news.wait()
        if self._over:
            raise ShowOverError
        self._news.clear()
        status, frame = self._status, self._frame
        self._status = self._frame = None
        return status, frame
