import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from dqn.training.metrics import POPULATION, MetricName, Metrics
from flows.failures.errors import TrackingError
from flows.tracking import metric_writer
from flows.tracking.attempt import StaleAttemptError
from flows.tracking.metric_writer import MetricWriter, Watermark, read_watermarks
from flows.tracking.runs import get_runs


def newest() -> None:
    """No other attempt has taken over."""


def record(name: MetricName, agents: Sequence[int], steps: Sequence[int], values: Sequence[float]) -> Metrics:
    return Metrics(
        name=name,
        agent=torch.tensor(agents),
        step=torch.tensor(steps),
        value=torch.tensor(values, dtype=torch.float64),
    )


def logged(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


@pytest.fixture
def runs(store: MlflowClient, request: pytest.FixtureRequest) -> dict[int, str]:
    experiment = store.create_experiment(request.node.name)
    return {agent: store.create_run(experiment).info.run_id for agent in (POPULATION, 0, 1)}


def test_values_reach_the_run_of_their_agent_in_order(store: MlflowClient, runs: dict[int, str]) -> None:
    writer = MetricWriter(store, runs, {}, check=newest)
    writer.write([record("train/td_loss", [0, 1], [10, 10], [0.5, 0.25]), record("train/td_loss", [1], [20], [0.125])])
    writer.write_population("train/steps_per_second", step=20, value=1e5)
    writer.close()
    assert logged(store, runs[0], "train/td_loss") == [(10, 0.5)]
    assert logged(store, runs[1], "train/td_loss") == [(10, 0.25), (20, 0.125)]
    assert logged(store, runs[POPULATION], "train/steps_per_second") == [(20, 1e5)]


def test_more_values_than_one_request_takes(store: MlflowClient, runs: dict[int, str]) -> None:
    assert metric_writer.BATCH == MAX_METRICS_PER_BATCH
    steps = range(2 * metric_writer.BATCH + 1)
    writer = MetricWriter(store, runs, {}, check=newest)
    writer.write([record("train/episodic_return", [0] * len(steps), steps, [float(step) for step in steps])])
    writer.close()
    assert logged(store, runs[0], "train/episodic_return") == [(step, float(step)) for step in steps]


def test_a_run_that_goes_on_repeats_nothing_and_loses_nothing(store: MlflowClient, runs: dict[int, str]) -> None:
    history = [record("eval/mean_return", [0, 0, 0, 0], [10, 20, 20, 30], [1.0, 2.0, 3.0, 4.0])]
    first = MetricWriter(store, runs, {}, check=newest)
    first.write([record("eval/mean_return", [0, 0], [10, 20], [1.0, 2.0])])  # killed between two values of one step
    first.close()
    second = MetricWriter(store, runs, read_watermarks(store, get_runs(store, list(runs.values()))), check=newest)
    second.write(history)
    second.close()
    assert logged(store, runs[0], "eval/mean_return") == [(10, 1.0), (20, 2.0), (20, 3.0), (30, 4.0)]


@pytest.mark.parametrize(
    ("step", "value", "logged"), [(9, 5.0, True), (10, 1.0, True), (10, 2.0, False), (11, 1.0, False)]
)
def test_a_watermark_takes_what_was_logged(step: int, value: float, logged: bool) -> None:
    assert Watermark(step=10, values=Counter([1.0])).takes(step, value) is logged


def test_a_watermark_takes_each_value_as_often_as_it_was_logged() -> None:
    watermark = Watermark(step=10, values=Counter([1.0, 1.0, 2.0]))
    assert [watermark.takes(10, value) for value in (1.0, 1.0, 1.0, 2.0, 2.0)] == [True, True, False, True, False]


def test_values_keep_the_time_they_were_handed_over_at() -> None:
    server: Any = Unreliable()
    server.up = True
    before = time.time()
    writer = MetricWriter(server, {POPULATION: "parent", 0: "run"}, {}, check=newest)
    writer.write([record("train/td_loss", [0], [1], [0.5])])
    writer.write_population("train/steps_per_second", step=1, value=2.0)
    writer.close()
    assert all(1000 * before - 1 <= metric.timestamp <= 1000 * time.time() for metric in server.received)
    assert len(server.received) == 2


def test_equal_values_of_one_step_are_counted(store: MlflowClient, runs: dict[int, str]) -> None:
    for timestamp in (1, 2):
        store.log_batch(runs[0], metrics=[Metric("eval/mean_return", 7.0, timestamp, 10)])
    writer = MetricWriter(store, runs, read_watermarks(store, get_runs(store, list(runs.values()))), check=newest)
    writer.write([record("eval/mean_return", [0, 0, 0, 0], [9, 10, 10, 10], [7.0, 7.0, 7.0, 7.0])])
    writer.close()
    assert logged(store, runs[0], "eval/mean_return") == [(10, 7.0)] * 3


def test_a_deleted_run_is_left_out_and_the_others_go_on(
    store: MlflowClient, runs: dict[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    store.delete_run(runs[0])
    writer = MetricWriter(store, runs, read_watermarks(store, get_runs(store, list(runs.values()))), check=newest)
    writer.write([record("train/td_loss", [0, 1], [10, 10], [0.5, 0.25])])
    writer.close()
    assert logged(store, runs[1], "train/td_loss") == [(10, 0.25)]
    assert caplog.text.count(f"run {runs[0]} was deleted") == 1


class Takeover:
    """A check that fails once another attempt has taken over."""

    def __init__(self) -> None:
        self.stale = False
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.stale:
            raise StaleAttemptError("replaced")


def test_a_stale_attempt_sends_nothing_and_is_told_at_its_next_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_writer, "FLUSH_SECONDS", 0.01)
    server: Any = Unreliable()
    server.up = True
    check = Takeover()
    flushed = threading.Event()
    writer = MetricWriter(server, {0: "run"}, {}, check=check, after_flush=flushed.set)
    writer.write([record("train/td_loss", [0], [1], [0.5])])
    while not server.received:
        assert flushed.wait(10)
    assert writer.confirmed_within(10)
    writer.write([record("train/td_loss", [0], [2], [0.25])])
    check.stale = True
    while writer.confirmed_within(1e9):
        time.sleep(0.001)
    with pytest.raises(StaleAttemptError, match="replaced"):
        writer.write([record("train/td_loss", [0], [3], [0.125])])
    with pytest.raises(StaleAttemptError):
        writer.close(patience=10)
    assert 3 not in [metric.step for metric in server.received]


def test_a_flush_is_checked_once_in_ten_seconds_and_nothing_is_confirmed_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(metric_writer, "BATCH", 1)
    monkeypatch.setattr(metric_writer, "FLUSH_SECONDS", 1e9)
    server: Any = Unreliable()
    server.up = True
    check = Takeover()
    writer = MetricWriter(server, {0: "run"}, {}, check=check)
    writer.write([record("train/td_loss", [0, 0, 0], [1, 2, 3], [0.5, 0.25, 0.125])])
    clock[0] = 110.0
    assert writer.confirmed_within(10)
    clock[0] = 110.5
    assert not writer.confirmed_within(10)
    send = server.log_batch

    def slowly(*given: Any, **named: Any) -> None:
        clock[0] += 6.0
        send(*given, **named)

    server.log_batch = slowly
    writer.close()
    assert len(server.received) == 3
    assert check.asked == 2  # before the first, and before the third, 12 s later
    assert writer.confirmed_within(6)


def test_the_runs_of_many_agents_are_written_seldom_and_with_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sent: list[tuple[str, int, int]] = []
    server: Any = SimpleNamespace(
        log_batch=lambda run_id, metrics, params: sent.append((run_id, len(metrics), len(params)))
    )
    runs = {POPULATION: "parent", **{agent: f"agent {agent}" for agent in range(100)}}
    params = {"agent 1": [Param("gamma", "0.9")] * 40}
    writer = MetricWriter(server, runs, {}, check=newest, params=params)
    writer.close()
    values = [record("train/td_loss", [POPULATION, 0, 1], [1, 1, 1], [0.5, 0.25, 0.125])]
    for now, expected in ((105.0, [("parent", 1, 0)]), (200.0, [("parent", 1, 0)])):
        clock[0] = now
        deliver(writer, values)
        assert sent == expected
        sent.clear()
    clock[0] = 202.0
    deliver(writer, values)
    assert sent == [("parent", 1, 0), ("agent 0", 3, 0), ("agent 1", 3, 40)]
    sent.clear()
    deliver(writer, [record("train/td_loss", [1] * 1_000, range(1_000), [0.5] * 1_000)])
    assert sent == [("agent 1", 1_000, 0)]  # as many as one request takes


def deliver(writer: MetricWriter, records: Sequence[Metrics]) -> None:
    """Hand over records and flush, as the thread does."""
    writer.write(records)
    while not writer._queue.empty():
        item = writer._queue.get()
        assert item
        writer._buffer(item)
    writer._flush()


class Unreliable:
    """A tracking server that is down until it is told otherwise."""

    def __init__(self) -> None:
        self.up = False
        self.tried = threading.Event()
        self.received: list[Metric] = []

    def log_batch(self, run_id: str, metrics: Sequence[Metric], params: object) -> None:
        self.tried.set()
        if not self.up:
            raise ConnectionError("connection refused")
        self.received += metrics


def test_what_cannot_be_sent_is_sent_when_the_server_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_writer, "FLUSH_SECONDS", 0.01)
    server: Any = Unreliable()
    writer = MetricWriter(server, {0: "run"}, {}, check=newest)
    writer.write([record("train/td_loss", [0, 0], [1, 2], [0.5, 0.25])])
    assert server.tried.wait(10)
    server.up = True
    writer.close()
    assert [(metric.step, metric.value) for metric in server.received] == [(1, 0.5), (2, 0.25)]


def test_a_server_that_restarts_when_training_ends_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Unreliable()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        server.up = len(slept) == 3

    monkeypatch.setattr(time, "sleep", sleep)
    writer = MetricWriter(server, {0: "run"}, {}, check=newest)
    writer.write([record("train/td_loss", [0], [1], [0.5])])
    writer.close(patience=1_000)
    assert slept == [metric_writer.RETRY_SECONDS] * 3
    assert [(metric.step, metric.value) for metric in server.received] == [(1, 0.5)]


def test_what_was_never_sent_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("no wait was asked for"))
    server: Any = Unreliable()
    writer = MetricWriter(server, {0: "run"}, {}, check=newest)
    writer.write([record("train/td_loss", [0, 0], [1, 2], [0.5, 0.25])])
    with pytest.raises(TrackingError, match="2 metric values could not be logged: connection refused"):
        writer.close()


class Idle:
    """A queue in which nothing comes for a while, and how long it was waited at each time."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.over = threading.Event()

    def put(self, item: object) -> None:
        self.over.set()

    def get(self, timeout: float) -> None:
        self.waited.append(timeout)
        if len(self.waited) < 4:
            raise queue.Empty
        assert self.over.wait(10)


def test_without_metrics_it_still_asks_which_attempt_is_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    idle, check = Idle(), Takeover()
    monkeypatch.setattr(queue, "SimpleQueue", lambda: idle)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    server: Any = Unreliable()
    writer = MetricWriter(server, {0: "run"}, {}, check=check)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "metric-writer"]
    assert thread.daemon  # a training that dies does not wait for it
    writer.close()
    assert idle.waited == [metric_writer.FLUSH_SECONDS] * 4
    assert check.asked == 4
