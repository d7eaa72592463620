"""When a show's next step is due."""

import asyncio
from typing import Final, Protocol

_CATCH_UP: Final = 0.2
"""Seconds of a hiccup that are caught up with."""


class Pace(Protocol):
    """Waits between two steps; tests have one of their own, which they step by hand."""

    async def wait(self, period: float) -> None:
        """Return when a step that takes `period` seconds is over."""


class RealTime:
    """Steps at their times by the event loop's clock; after more than a hiccup they do not race to catch up."""

    def __init__(self) -> None:
        self._due = 0.0

    async def wait(self, period: float) -> None:
        """Return `period` seconds after the last return was due, or at once where that is past."""
        now = asyncio.get_running_loop().time()
        due = self._due + period
        self._due = due if due > now - _CATCH_UP else now
        await asyncio.sleep(self._due - now)
