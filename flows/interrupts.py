"""Ctrl-C and SIGTERM at any moment, once or several times: the process ends in seconds, and so do the runs it began.

The first signal raises where the program stands. A second one is ignored while runs are being ended, as long as that
is not stuck; a watchdog ends the process however it is stuck.
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
"""After these the error was swallowed, as in a destructor, or its way out is stuck: it is raised once more."""
_LEAVE_SECONDS: Final = 2.5
"""After these, too, the process ends where it stands."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: everything ends as it does with Ctrl-C."""


class _Interrupts:
    """What has arrived, and what may not be interrupted just now."""

    def __init__(self) -> None:
        self.holds = 0
        self.ending = False
        self.over = threading.Event()
        self.woken, self._arrived = socket.socketpair()
        self.woken.setblocking(False)
        self._pending = False
        self._raised: float | None = None

    def handle(self, signum: int, _frame: object) -> None:
        """Raise, at once or when nothing holds it."""
        if self._raised is None:
            with contextlib.suppress(OSError):  # where an event loop has taken Python's own notice over
                self.woken.send(bytes([signum]))
        elif self.ending or time.monotonic() - self._raised < _RAISE_AGAIN_SECONDS:
            return
        self._raised = time.monotonic()
        self._signum = signum
        self._pending = True
        self.raise_pending()

    def raise_pending(self) -> None:
        """Raise what has arrived, unless something holds it."""
        if self._pending and self.holds <= 0:
            self._pending = False
            raise Terminated if self._signum == signal.SIGTERM else KeyboardInterrupt

    def watch(self) -> None:
        """In a thread, which learns of a signal even while the main one is in a library that does not return."""
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
    """A block in which a signal raises KeyboardInterrupt, or Terminated, once; only a main thread receives any."""
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
    """A short block that a signal does not interrupt: it raises at its end."""
    yield from _changed(+1)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """A block within `held` that a signal may interrupt after all."""
    yield from _changed(-1)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """A block that ends what was begun: further signals are ignored."""
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
    """Have a signal end the process where it stands: nothing has begun, or everything is over."""
    for signum in _SIGNALS:
        signal.signal(signum, _leave_now)


def leave(code: int) -> NoReturn:
    """Exit without waiting for threads, which a library may have left without an end; all that counts is kept."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nothing reads it any more
            stream.flush()
    if code in (INTERRUPTED, TERMINATED) or "prefect" not in sys.modules:  # which sends its logs at the very end
        os._exit(code)
    raise SystemExit(code)


def _leave_now(signum: int, said: Any = "") -> None:
    word = "terminated" if signum == signal.SIGTERM else "interrupted"
    with contextlib.suppress(OSError):
        os.write(2, f"\nerror: {word}{said if isinstance(said, str) else ''}\n".encode())
    os._exit(128 + signum)
