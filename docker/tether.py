"""Ends what a parent has started when the parent is gone, however it went: SIGKILL leaves it no time to clean up.

`python tether.py` reads ids of process groups, one a line, from its standard input. The other end of that pipe is held
by the parent alone. When the parent ends the kernel closes it, on every system that has pipes; then each group that is
still there is asked to end, and a while later made to.
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
        """End a process group too when this process is gone."""
        assert self._process.stdin is not None
        print(group, file=self._process.stdin, flush=True)


@contextmanager
def tether(grace_seconds: float = GRACE_SECONDS) -> Iterator[Tether]:
    """A process that outlives this one for as long as it takes to end what `hold` named."""
    command = (sys.executable, str(Path(__file__).resolve()), str(grace_seconds))
    # A session of its own: Ctrl-C and the signals of a terminal that is closed are for the parent.
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
    """Whether there was somebody to signal."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
