"""Time limits for calls that may never return: threads that delay nothing, and model runs that are cancelled."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import onnxruntime as ort

RUN_SECONDS: Final = 1.5
_TICK: Final = 0.25
T = TypeVar("T")


def begin(function: Callable[[], T]) -> Future[T]:
    """Call a function in a new daemon thread, which ends with the process even if the call hangs.

    A StopIteration becomes a RuntimeError: no asyncio future takes it, and CPython 3.11 would wait for ever.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # a waiter may give up; the function runs to its end

    def call() -> None:
        try:
            result = function()
        except StopIteration:
            future.set_exception(RuntimeError("StopIteration"))
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=call, daemon=True, name="serving-aside").start()
    return future


class _Run:
    """A run in progress."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4
        self.ticks = 0
        """Ticks of the watch since the start. The clock does not serve: a process may have been stopped for an hour."""


_runs: set[_Run] = set()
_watch: threading.Thread | None = None


def run(session: ort.InferenceSession, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
    """Run a model and cancel it after `RUN_SECONDS`. It stops between two nodes; a single node runs to its end.

    Raises:
        TimeoutError: if it was cancelled.
    """
    global _watch
    if _watch is None or not _watch.is_alive():  # the first run, or a process that was forked
        _watch = threading.Thread(target=_cancel_late, daemon=True, name="serving-deadlines")
        _watch.start()
    running = _Run()
    _runs.add(running)
    try:
        return list(session.run(outputs, inputs, running.options))
    except Exception as error:
        if running.options.terminate:
            raise TimeoutError(f"it did not answer within {RUN_SECONDS:g} s") from error
        raise
    finally:
        _runs.discard(running)


def _cancel_late() -> None:
    while True:
        time.sleep(_TICK)
        for each in _runs.copy():
            each.ticks += 1
            if each.ticks * _TICK >= RUN_SECONDS:
                each.options.terminate = True
