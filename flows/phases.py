"""What goes on, said as it happens: a line a phase, with its time.

On a terminal a phase's line is completed when it is over; elsewhere it has a line when it begins and one when it ends.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flows.flow_run import flow_run_id

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
