"""Progress on the console: one line per phase, with its duration.

On a terminal a phase's line is completed when the phase ends. Elsewhere there is one line at its start and one at its
end.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from flows.orchestration.flow_run import flow_run_id

SAID_SECONDS: Final = 5.0
"""Between two messages about the progress of long work."""
_CLEAR: Final = "\r\x1b[K"


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Print the name of the block, and at its end how long it took."""
    began = time.monotonic()
    _write(f"{name} ...", end="" if sys.stderr.isatty() else "\n")
    try:
        yield
    except BaseException:
        if sys.stderr.isatty():
            _write("")  # the error begins a new line
        raise
    note(f"{name}: {time.monotonic() - began:.1f} s")


class Estimate:
    """Prints the progress of long work every few seconds, with an estimate of the remaining time."""

    def __init__(self, what: str, total: int, *, done: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._began_with = done
        self._now = now
        self._began = self._said = now()

    def __call__(self, done: int, more: str = "") -> None:
        """Print the progress, unless the last message is recent or the work is done.

        Args:
            done: how much of the total is done.
            more: further text.
        """
        now = self._now()
        gained = done - self._began_with
        if now - self._said < SAID_SECONDS or gained <= 0 or done >= self._total:
            return
        self._said = now
        left = (now - self._began) * (self._total - done) / gained
        say(f"{self._what}: {done:,} of {self._total:,}, {duration(left)} left at most{more and f'; {more}'}")


def duration(seconds: float) -> str:
    """A rounded duration in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str) -> None:
    """Print a message to a flow run's log, or between phases."""
    if flow_run_id():
        print(text, flush=True)
    else:
        note(text)


def note(text: str) -> None:
    """Print a message between phases."""
    _write((_CLEAR if sys.stderr.isatty() else "") + text)


def _write(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
