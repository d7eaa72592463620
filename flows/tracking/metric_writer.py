"""Metrics for MLflow: buffered, batched and sent by one background thread."""

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
from flows.failures.errors import TrackingError, is_full, one_line
from flows.tracking.attempt import CHECKED_SECONDS, StaleAttemptError
from flows.tracking.runs import unless_deleted

BATCH: Final = 1_000
"""Values in one request; MLflow's limit."""
FLUSH_SECONDS: Final = 5.0
RUNS_A_FLUSH: Final = 5
"""Agents' runs that are written per flush, on average: those of a hundred agents are sent every hundred seconds. The
population's run is written with every flush."""
RETRY_SECONDS: Final = 1.0
"""Between attempts to send the remaining values at the end."""


@dataclass(kw_only=True)
class Watermark:
    """How far a metric of a run has been logged, to recognise values that are handed over again."""

    step: int
    values: Counter[float] = field(default_factory=Counter)
    """Values that were logged at that step and not handed over again yet."""

    def takes(self, step: int, value: float) -> bool:
        """Whether this value is logged already. The steps of a metric never decrease."""
        if step != self.step:
            return step < self.step
        if not self.values[value]:
            return False
        self.values[value] -= 1
        return True


Watermarks = Mapping[tuple[str, str], Watermark]
"""By run id and metric name."""


def read_watermarks(client: MlflowClient, runs: Mapping[str, Run]) -> Watermarks:
    """The watermarks of interrupted runs, given by id, so that resuming them repeats no value."""
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
    """Values `[N]` of one metric, of agents `[N]` at steps `[N]`, and the time of the handover in ms."""

    timestamp: int
    name: str
    agent: Tensor
    step: Tensor
    value: Tensor


class MetricWriter:
    """Accepts metrics without waiting, and logs them in order, in batches of one run.

    Values that cannot be sent stay in the buffer until the next flush, so a tracking server may restart during
    training. Values keep the time of their handover. Of values that are equal in name, step, value and time, MLflow
    keeps one, so sending a batch again is harmless.

    The population's values are sent every few seconds. An agent's values are sent when they fill a request, at regular
    intervals (`RUNS_A_FLUSH`) and at the end.

    Before the batches, and every few seconds without one, the thread checks that this attempt is still the newest. The
    rest of the process must not wait for a tracking server, and uses the time of the latest check.
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
            client: of the tracking store.
            run_of_agent: run ids; the parent's is under `dqn.training.metrics.POPULATION`.
            watermarks: what is logged already.
            check: called in the thread; raises StaleAttemptError if a newer attempt has begun.
            params: parameters that are sent with the first batch of a run, by its id.
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
        """Whether a check at most `seconds` ago found this attempt to be the newest. Time while frozen counts."""
        return self._stale is None and time.monotonic() - self._confirmed <= seconds

    def write(self, records: Sequence[Metrics]) -> None:
        """Hand over records; returns at once.

        Raises:
            StaleAttemptError: if a newer attempt has begun.
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
        """Hand over one value of each agent after training; returns at once."""
        agent = torch.tensor(list(values), dtype=torch.int64)
        value = torch.tensor(list(values.values()), dtype=torch.float64)
        self._queue.put(_Item(timestamp=_now(), name=name, agent=agent, step=torch.zeros_like(agent), value=value))

    def close(self, *, patience: float = 0.0) -> None:
        """Send the remaining values and end the thread.

        Args:
            patience: seconds to keep trying, as the tracking server may be restarting.

        Raises:
            StaleAttemptError: if a newer attempt has begun.
            TrackingError: if some values could not be sent.
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
        """Seconds between two flushes of the agents' runs."""
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
        except Exception as error:  # `close` raises it, unless a later flush succeeds
            self._failure = error

    def _confirm(self) -> None:
        asked = time.monotonic()
        self._check()
        self._confirmed = asked


def _now() -> int:
    return int(time.time() * 1000)
