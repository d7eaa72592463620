"""What comes from outside may never end: threads that hold up nothing, and runs of a model that are called off."""

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
    """Call a function in a thread of its own, which ends with the process whatever it does.

    A StopIteration would be waited for for ever: no asyncio future takes one, and CPython 3.11 does not say so.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever waits may give up; the function goes on

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
    """A run that is under way."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4
        self.ticks = 0
        """Seen by the watch so often: a process that was stopped for an hour finds no run an hour old."""


_runs: set[_Run] = set()
_watch: threading.Thread | None = None


def run(session: ort.InferenceSession, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
    """Run a model, and call it off after `RUN_SECONDS`: between two of its nodes, a single one runs to its end.

    Raises:
        TimeoutError: if it was called off.
    """
    global _watch
    if _watch is None or not _watch.is_alive():  # the first run, or a process that was forked
        _watch = threading.Thread(target=_call_off, daemon=True, name="serving-deadlines")
        _watch.start()
    under_way = _Run()
    _runs.add(under_way)
    try:
        return list(session.run(outputs, inputs, under_way.options))
    except Exception as error:
        if under_way.options.terminate:
            raise TimeoutError(f"it did not answer within {RUN_SECONDS:g} s") from error
        raise
    finally:
        _runs.discard(under_way)


def _call_off() -> None:
    while True:
        time.sleep(_TICK)
        for each in _runs.copy():
            each.ticks += 1
            if each.ticks * _TICK >= RUN_SECONDS:
                each.options.terminate = True
