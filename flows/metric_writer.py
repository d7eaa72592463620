"""Metrics on their way to MLflow: buffered, batched and sent by one background thread."""

import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from torch import Tensor

from dqn.metrics import POPULATION, Metrics
from flows.attempt import StaleAttemptError
from flows.tracking import TrackingError, is_full, one_line, unless_deleted

BATCH: Final = 1_000
"""Values in one request; MLflow accepts no more."""
FLUSH_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
"""Between attempts to send what is left at the end."""


@dataclass(kw_only=True)
class Watermark:
    """How far a metric of a run has been logged; takes the values that are handed over again, each once."""

    step: int
    values: Counter[float] = field(default_factory=Counter)
    """The values logged at that step that have not been handed over again."""

    def takes(self, step: int, value: float) -> bool:
        """Whether this value is logged already; the steps of a metric never decrease."""
        if step != self.step:
            return step < self.step
        if not self.values[value]:
            return False
        self.values[value] -= 1
        return True


Watermarks = Mapping[tuple[str, str], Watermark]
"""By run id and metric name."""


def read_watermarks(client: MlflowClient, run_ids: Sequence[str]) -> Watermarks:
    """What a run that stopped has logged, so that the one that goes on repeats none of it."""
    watermarks = {}
    for run_id in run_ids:
        for key in client.get_run(run_id).data.metrics:
            history = client.get_metric_history(run_id, key)
            last = max(metric.step for metric in history)
            values = Counter(metric.value for metric in history if metric.step == last)
            watermarks[run_id, key] = Watermark(step=last, values=values)
    return watermarks


@dataclass(frozen=True, kw_only=True)
class _Item:
    """Values `[N]` of one metric, of agents `[N]` at steps `[N]`, and when they were handed over in ms."""

    timestamp: int
    name: str
    agent: Tensor
    step: Tensor
    value: Tensor


class MetricWriter:
    """Takes metrics without waiting and logs them in order, in batches of one run.

    What cannot be sent stays in the buffer and is tried again with the next flush: a tracking server may restart
    during training. Values keep the time they were handed over at: of two that are equal in name, step, value and time
    MLflow keeps one, so that sending a batch again is harmless.

    Before each batch, and every few seconds without one, it checks that this attempt is still the newest. The rest of
    the process, which must not wait for a tracking server, relies on when that was confirmed last.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_of_agent: Mapping[int, str],
        watermarks: Watermarks,
        *,
        check: Callable[[], None],
        after_flush: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread.

        Args:
            client: where metrics go.
            run_of_agent: run ids, the parent's under `dqn.metrics.POPULATION`.
            watermarks: what is logged already.
            check: called in the thread; raises StaleAttemptError where another attempt has taken over.
            after_flush: called in the thread, at most every few seconds.
        """
        self._client = client
        self._run_of_agent = run_of_agent
        self._watermarks = watermarks
        self._check = check
        self._after_flush = after_flush
        self._buffers: dict[str, list[Metric]] = defaultdict(list)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._stale: StaleAttemptError | None = None
        self._confirmed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="metric-writer", daemon=True)
        self._thread.start()

    def confirmed_within(self, seconds: float) -> bool:
        """Whether this attempt was the newest no more than so many seconds ago, those of a frozen process included."""
        return self._stale is None and time.monotonic() - self._confirmed <= seconds

    def write(self, records: Sequence[Metrics]) -> None:
        """Hand over records; returns at once.

        Raises:
            StaleAttemptError: if another attempt has taken over.
            TrackingError: if the store's disk is full.
        """
        if self._stale:
            raise self._stale
        if self._failure and is_full(self._failure):  # no later flush will send them
            raise self._unsent(self._failure)
        timestamp = _now()
        for record in records:
            item = _Item(
                timestamp=timestamp, name=record.name, agent=record.agent, step=record.step, value=record.value
            )
            self._queue.put(item)

    def write_population(self, name: str, *, step: int, value: float) -> None:
        """Hand over one value of the parent run; returns at once."""
        agent, at, values = (torch.tensor([number]) for number in (POPULATION, step, value))
        self._queue.put(_Item(timestamp=_now(), name=name, agent=agent, step=at, value=values))

    def close(self, *, patience: float = 0.0) -> None:
        """Send what is left and end the thread.

        Args:
            patience: seconds to keep trying in, while the tracking server may be restarting.

        Raises:
            StaleAttemptError: if another attempt has taken over.
            TrackingError: if something could not be sent.
        """
        self._queue.put(None)
        self._thread.join()
        deadline = time.monotonic() + patience
        while self._failure and not is_full(self._failure) and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)
            self._flush()
        if self._stale:
            raise self._stale
        if self._failure:
            raise self._unsent(self._failure) from self._failure

    def _unsent(self, failure: Exception) -> TrackingError:
        unsent = sum(len(buffer) for buffer in self._buffers.values())
        return TrackingError(f"{unsent} metric values could not be logged: {one_line(failure)}")

    def _run(self) -> None:
        due = time.monotonic() + FLUSH_SECONDS
        while True:
            try:
                item = self._queue.get(timeout=max(due - time.monotonic(), 0.0))
            except queue.Empty:
                self._flush()
                due = time.monotonic() + FLUSH_SECONDS
                continue
            if item is None:
                self._flush()
                return
            self._buffer(item)

    def _buffer(self, item: _Item) -> None:
        for agent, step, value in zip(item.agent.tolist(), item.step.tolist(), item.value.tolist(), strict=True):
            run_id = self._run_of_agent[agent]
            watermark = self._watermarks.get((run_id, item.name))
            if watermark is None or not watermark.takes(step, value):
                self._buffers[run_id].append(Metric(item.name, value, item.timestamp, step))

    def _flush(self) -> None:
        if self._stale:
            return
        try:
            self._confirm()
            for run_id, buffer in self._buffers.items():
                while buffer:
                    self._confirm()
                    with unless_deleted(self._client, run_id):
                        self._client.log_batch(run_id, metrics=buffer[:BATCH])
                    del buffer[:BATCH]
            self._after_flush()
            self._failure = None
        except StaleAttemptError as error:
            self._stale = error
            self._buffers.clear()
        except Exception as error:  # kept and raised by close, unless a later flush sends what this one could not
            self._failure = error

    def _confirm(self) -> None:
        asked = time.monotonic()
        self._check()
        self._confirmed = asked


def _now() -> int:
    return int(time.time() * 1000)
