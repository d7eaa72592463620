"""The time between two steps of a show."""

import asyncio
from typing import Final, Protocol

_CATCH_UP: Final = 0.2
"""Longest delay, in seconds, that the next steps make up for."""


class Pace(Protocol):
    """Waits between two steps; tests have another one, which they step by hand."""

    async def wait(self, period: float) -> None:
        """Return when a step of `period` seconds is over."""


class RealTime:
    """Real time by the clock of the event loop. A longer delay is skipped, not made up for."""

    def __init__(self) -> None:
        self._due = 0.0

    async def wait(self, period: float) -> None:
        """Return `period` seconds after the last return was due, or at once if that time is past."""
        now = asyncio.get_running_loop().time()
        due = self._due + period
        self._due = due if due > now - _CATCH_UP else now
        await asyncio.sleep(self._due - now)
