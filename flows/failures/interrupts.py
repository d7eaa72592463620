"""Ctrl-C and SIGTERM: the process and the runs that it began end within seconds, whenever the signals arrive.

The first signal raises an exception in the main thread. A second one is ignored while runs are being ended. If the
process hangs, a watchdog thread ends it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_RAISE_AGAIN_SECONDS: Final = 1.0
_LOST_SECONDS: Final = 1.5
"""If the process still runs after this time, the exception was swallowed or is held up: it is raised once more."""
_LEAVE_SECONDS: Final = 2.5
"""After this further time the process exits at once."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is handled like Ctrl-C."""


class _Interrupts:
    """The signal that has arrived, and whether it may raise now."""

    def __init__(self) -> None:
        self.holds = 0
        self.ending = False
        self.over = threading.Event()
        self.woken, self._arrived = socket.socketpair()
        self.woken.setblocking(False)
        self._pending = False
        self._raised: float | None = None

    def handle(self, signum: int, _frame: object) -> None:
        """Handle a signal: raise at once, or at the end of the block that is `held`."""
        if self._raised is None:
            with contextlib.suppress(OSError):  # if an event loop has replaced the wakeup descriptor
                self.woken.send(bytes([signum]))
        elif self.ending or time.monotonic() - self._raised < _RAISE_AGAIN_SECONDS:
            return
        self._raised = time.monotonic()
        self._signum = signum
        self._pending = True
        self.raise_pending()

    def raise_pending(self) -> None:
        """Raise for the signal that has arrived, unless a block is `held`."""
        if self._pending and self.holds <= 0:
            self._pending = False
            raise Terminated if self._signum == signal.SIGTERM else KeyboardInterrupt

    def watch(self) -> None:
        """The watchdog thread: a signal reaches it even while the main thread is in a library that does not return."""
        signum = next(iter(self._arrived.recv(1)), 0)
        if not signum or self.over.wait(_LOST_SECONDS):
            return
        if not self.ending:
            os.kill(os.getpid(), signum)
        if not self.over.wait(_LEAVE_SECONDS):
            _leave_now(
                signum, "; its runs could not be ended in time, MLflow shows them as running until they are resumed"
            )

    def close(self) -> None:
        """End the thread."""
        self.over.set()
        self.woken.close()


_active: _Interrupts | None = None


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A block in which a signal raises KeyboardInterrupt or Terminated, once; without effect in other threads."""
    global _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    _active = interrupts = _Interrupts()
    before = [signal.signal(signum, interrupts.handle) for signum in _SIGNALS]
    wakeup = signal.set_wakeup_fd(interrupts.woken.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=interrupts.watch, name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        _active = None
        signal.set_wakeup_fd(wakeup)
        interrupts.close()
        for signum, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(signum, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A short block that a signal does not interrupt: the exception is raised at its end."""
    yield from _changed(+1)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """A block within `held` that a signal may interrupt."""
    yield from _changed(-1)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """A block that ends runs: further signals are ignored."""
    if interrupts := _active:
        interrupts.ending = True
    try:
        yield
    finally:
        if interrupts:
            interrupts.ending = False


def _changed(holds: int) -> Iterator[None]:
    interrupts = _active
    if interrupts is None:
        yield
        return
    interrupts.holds += holds
    try:
        interrupts.raise_pending()
        yield
    finally:
        interrupts.holds -= holds
    interrupts.raise_pending()


def end_at_once() -> None:
    """Make a signal end the process at once, for the time before any run begins and after all have ended."""
    for signum in _SIGNALS:
        signal.signal(signum, _leave_now)


def leave(code: int) -> NoReturn:
    """Exit without waiting for threads, some of which libraries never end. All results have been written by now."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader is gone
            stream.flush()
    if code in (INTERRUPTED, TERMINATED) or "prefect" not in sys.modules:  # Prefect sends its logs at exit
        os._exit(code)
    raise SystemExit(code)


def _leave_now(signum: int, said: Any = "") -> None:
    word = "terminated" if signum == signal.SIGTERM else "interrupted"
    with contextlib.suppress(OSError):
        os.write(2, f"\nerror: {word}{said if isinstance(said, str) else ''}\n".encode())
    os._exit(128 + signum)
