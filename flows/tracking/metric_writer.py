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
from mlflow.entities import Metric, Param, Run
from torch import Tensor

from dqn.training.metrics import POPULATION, Metrics
from flows.errors import TrackingError, is_full, one_line
from flows.tracking.attempt import CHECKED_SECONDS, StaleAttemptError
from flows.tracking.runs import unless_deleted

BATCH: Final = 1_000
"""Values in one request; MLflow accepts no more."""
FLUSH_SECONDS: Final = 5.0
RUNS_A_FLUSH: Final = 5
"""That are written in the mean: a hundred agents' metrics are sent every hundred seconds, the population's at once."""
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


def read_watermarks(client: MlflowClient, runs: Mapping[str, Run]) -> Watermarks:
    """What runs that stopped have logged, by id, so that those that go on repeat none of it."""
    watermarks = {}
    for run_id, run in runs.items():
        for key in run.data.metrics:
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

    Values of the population are sent every few seconds, those of an agent's run when they fill a request, when its turn
    has come (`RUNS_A_FLUSH`) and at the end.

    Before the batches, and every few seconds without one, it checks that this attempt is still the newest. The rest of
    the process, which must not wait for a tracking server, relies on when that was confirmed last.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_of_agent: Mapping[int, str],
        watermarks: Watermarks,
        *,
        check: Callable[[], None],
        params: Mapping[str, Sequence[Param]] | None = None,
        after_flush: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread.

        Args:
            client: where metrics go.
            run_of_agent: run ids, the parent's under `dqn.training.metrics.POPULATION`.
            watermarks: what is logged already.
            check: called in the thread; raises StaleAttemptError where another attempt has taken over.
            params: parameters that go with the first batch of a run, by its id.
            after_flush: called in the thread, at most every few seconds.
        """
        self._client = client
        self._run_of_agent = run_of_agent
        self._watermarks = watermarks
        self._check = check
        self._params = dict(params or {})
        self._after_flush = after_flush
        self._agents_due = time.monotonic() + self._agents_seconds
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

    def write_last(self, name: str, values: Mapping[int, float]) -> None:
        """Hand over what is known of agents when all are trained; returns at once."""
        agent = torch.tensor(list(values), dtype=torch.int64)
        value = torch.tensor(list(values.values()), dtype=torch.float64)
        self._queue.put(_Item(timestamp=_now(), name=name, agent=agent, step=torch.zeros_like(agent), value=value))

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
            self._flush(everything=True)
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
                self._flush(everything=True)
                return
            self._buffer(item)

    def _buffer(self, item: _Item) -> None:
        for agent, step, value in zip(item.agent.tolist(), item.step.tolist(), item.value.tolist(), strict=True):
            run_id = self._run_of_agent[agent]
            watermark = self._watermarks.get((run_id, item.name))
            if watermark is None or not watermark.takes(step, value):
                self._buffers[run_id].append(Metric(item.name, value, item.timestamp, step))

    @property
    def _agents_seconds(self) -> float:
        """Between two flushes of the agents' runs."""
        return FLUSH_SECONDS * max(len(self._run_of_agent) / RUNS_A_FLUSH, 1.0)

    def _flush(self, *, everything: bool = False) -> None:
        if self._stale:
            return
        try:
            self._confirm()
            if everything or time.monotonic() >= self._agents_due:
                self._agents_due, least = time.monotonic() + self._agents_seconds, 1
            else:
                least = BATCH
            for run_id, buffer in self._buffers.items():
                while len(buffer) >= (1 if run_id == self._run_of_agent.get(POPULATION) else least):
                    if not self.confirmed_within(CHECKED_SECONDS):
                        self._confirm()
                    params = self._params.get(run_id, ())
                    room = BATCH - len(params)
                    with unless_deleted(self._client, run_id):
                        self._client.log_batch(run_id, metrics=buffer[:room], params=params)
                    del buffer[:room]
                    self._params.pop(run_id, None)
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
