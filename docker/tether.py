"""Ends the processes of a parent when the parent has ended, even by SIGKILL, which leaves it no time to clean up.

`python tether.py` reads ids of process groups, one a line, from its standard input. Only the parent has the other end
of that pipe open. When the parent ends, the kernel closes it on every system with pipes. Then each remaining group gets
SIGTERM and, after a while, SIGKILL.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

GRACE_SECONDS: Final = 15.0


class Tether:
    """The parent's end."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def hold(self, group: int) -> None:
        """End this process group too when this process has ended."""
        assert self._process.stdin is not None
        print(group, file=self._process.stdin, flush=True)


@contextmanager
def tether(grace_seconds: float = GRACE_SECONDS) -> Iterator[Tether]:
    """A process that outlives this one until it has ended the groups named by `hold`."""
    command = (sys.executable, str(Path(__file__).resolve()), str(grace_seconds))
    # In a session of its own, so that Ctrl-C and the hang-up of a terminal reach the parent only.
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield Tether(process)


def main() -> None:
    """Wait for the parent's end, then for that of its groups."""
    groups = [int(line) for line in sys.stdin]
    deadline = time.monotonic() + float(sys.argv[1])
    groups = [group for group in groups if _signal(group, signal.SIGTERM)]
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        groups = [group for group in groups if _signal(group, 0)]
    for group in groups:
        _signal(group, signal.SIGKILL)


def _signal(group: int, signum: int) -> bool:
    """Send a signal to a group; returns whether the group exists."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
