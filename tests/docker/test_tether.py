"""What a stack has started ends with it, even if it is killed."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DOCKER = Path(__file__).parents[2] / "docker"
PARENT = """
import subprocess, sys
from tether import tether
SLEEP = "import time; print(flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
with tether(grace_seconds=1.0) as held:
    for command in (SLEEP, STUBBORN):
        child = subprocess.Popen((sys.executable, "-c", command), stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()  # it has come so far as to ignore what it ignores
        held.hold(child.pid)
        print(child.pid, flush=True)
    print("ready", flush=True)
    sys.stdin.read()
"""


def ended(descriptor: int) -> bool:
    """Whether a process ends within a bounded time."""
    return bool(select.select([descriptor], [], [], 30)[0])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_whatever_ends_their_parent(signum: signal.Signals) -> None:
    if not hasattr(os, "pidfd_open"):
        pytest.skip("processes that are not children can be awaited on Linux alone")
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT), cwd=DOCKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    descriptors = [os.pidfd_open(child) for child in children]
    try:
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signum)
        parent.communicate(timeout=30)
        assert [ended(descriptor) for descriptor in descriptors] == [True, True]
    finally:
        for child, descriptor in zip(children, descriptors, strict=True):
            os.close(descriptor)
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
