"""What goes on, said as it happens: a line a phase, with its time.

On a terminal a phase's line is completed when it is over; elsewhere it has a line when it begins and one when it ends.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from flows.orchestration.flow_run import flow_run_id

SAID_SECONDS: Final = 5.0
"""Between two words about work that lasts."""
_CLEAR: Final = "\r\x1b[K"


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what the block does, and say how long it took."""
    began = time.monotonic()
    _write(f"{name} ...", end="" if sys.stderr.isatty() else "\n")
    try:
        yield
    except BaseException:
        if sys.stderr.isatty():
            _write("")  # what went wrong begins a line of its own
        raise
    note(f"{name}: {time.monotonic() - began:.1f} s")


class Estimate:
    """Says how far work that lasts is, with an estimate of what is left, every few seconds."""

    def __init__(self, what: str, total: int, *, done: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._began_with = done
        self._now = now
        self._began = self._said = now()

    def __call__(self, done: int, more: str = "") -> None:
        """Say that so much is done, unless that was just said, or little is left to wait for.

        Args:
            done: of the total.
            more: further words.
        """
        now = self._now()
        gained = done - self._began_with
        if now - self._said < SAID_SECONDS or gained <= 0 or done >= self._total:
            return
        self._said = now
        left = (now - self._began) * (self._total - done) / gained
        say(f"{self._what}: {done:,} of {self._total:,}, {duration(left)} left at most{more and f'; {more}'}")


def duration(seconds: float) -> str:
    """Seconds as a person says them, rounded."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str) -> None:
    """Say something in a flow run's log, or in between phases."""
    if flow_run_id():
        print(text, flush=True)
    else:
        note(text)


def note(text: str) -> None:
    """Say something in between."""
    _write((_CLEAR if sys.stderr.isatty() else "") + text)


def _write(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
