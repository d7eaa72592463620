"""One viewer of a show. It is sent the newest frame, never a queue of frames."""

import asyncio
from typing import Generic, TypeVar

Frame = TypeVar("Frame", str, bytes)


class ShowOverError(Exception):
    """The show has ended."""


class Viewer(Generic[Frame]):
    """Holds the newest frame and status until they are sent.

    The pixel feed takes frames for others and is not `counted` as a viewer.
    """

    def __init__(self, *, counted: bool = True) -> None:
        self.counted = counted
        self._frame: Frame | None = None
        self._status: str | None = None
        self._over = False
        self._news = asyncio.Event()

    def offer(self, *, frame: Frame | None = None, status: str | None = None) -> None:
        """Replace the frame or status that waits to be sent."""
        self._frame = frame or self._frame
        self._status = status or self._status
        self._news.set()

    def dismiss(self) -> None:
        """End the show for this viewer."""
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
