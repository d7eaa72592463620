"""What a population costs in calls of MLflow's store, and first trainings that begin side by side."""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from dqn.config import DQNConfig
from flows.failures.errors import InputError
from flows.registry.returns import read_returns
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError, begin
from flows.tracking.runs import complete_runs, experiment_of, open_run, read_runs
from flows.training.steps import test_agents as run_tests
from flows.training.steps import train

ROOT = Path(__file__).parents[3]
CALLS = ("get_run", "create_run", "log_batch", "update_run_info", "set_tag", "search_runs", "get_metric_history")
BEGIN = """
import os, sys
from dqn.config import DQNConfig
from flows.tracking.store import connect; from flows.tracking.runs import experiment_of, open_run
print("ready", flush=True)
sys.stdin.readline()
client = connect()
print(open_run(client, DQNConfig(), preset="cartpole", flow_run_id=None, tags={}))
"""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of the tracking store, by name."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(SqlAlchemyStore, name)

        def call(*given: Any, **named: Any) -> Any:
            counted[name] += 1
            return original(*given, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(SqlAlchemyStore, name, counting(name))
    return counted


@pytest.mark.slow
def test_a_hundred_agents_make_three_calls_each(
    store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path, calls: Counter[str]
) -> None:
    config = small_config(num_agents=100, max_updates=1, env_id="ProbeActionReward-v0")
    attempt = begin(store, open_run(store, config, preset="cartpole", flow_run_id=None, tags={}))
    fenced = FencedClient(client=store, attempt=attempt)
    complete_runs(fenced, config, flow_run_id=None)
    train.fn(attempt.run_id, str(tmp_path), attempt)
    uri = run_tests.fn(attempt.run_id, attempt)
    assert (calls["create_run"], calls["update_run_info"]) == (101, 100)
    assert calls["log_batch"] <= 110
    assert calls.total() <= 360, calls  # with about thirty calls that do not depend on the agents
    children = read_runs(fenced).children
    for child, mine in list(zip(children, read_returns(uri), strict=True))[::33]:
        run = store.get_run(child)
        assert run.data.params["gamma"] == str(config.gamma)
        assert run.data.metrics["test/mean_return"] == mine.mean()
        assert run.data.metrics["test/min_return"] == mine.min()
        assert run.info.status == "FINISHED"


def test_a_batch_is_checked_before_its_first_write_and_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[float]()

    def check(*_: Any) -> None:
        asked.append(clock[0])
        if clock[0] > 25:
            raise StaleAttemptError("replaced")

    monkeypatch.setattr(FencedClient, "check", check)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    client: Any = None
    batch = FencedClient(client=client, attempt=Attempt(run_id="r", token="t")).in_batch(range(100))
    written = []
    for item in itertools.islice(batch, 8):
        written.append(item)
        clock[0] += 30.0 if item == 7 else 3.0  # frozen after that write
    with pytest.raises(StaleAttemptError):
        next(batch)
    assert asked == [0.0, 12.0, 51.0]
    assert written == list(range(8))


@pytest.mark.slow
def test_first_trainings_side_by_side_all_begin(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], [errors for _, errors in ended]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    begun = {output.strip() for output, _ in ended}
    assert len(begun) == 3
    assert len({client.get_run(run_id).info.experiment_id for run_id in begun}) == 1


def test_a_deleted_experiment_says_how_it_is_restored(
    store: MlflowClient, small_config: Callable[..., DQNConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deleted")
    where = experiment_of(store, small_config())
    store.delete_experiment(where)
    with pytest.raises(InputError, match=f"sqlite:.* mlflow experiments restore --experiment-id {where}`"):
        open_run(store, small_config(), preset="cartpole", flow_run_id=None, tags={})
    store.restore_experiment(where)
    assert experiment_of(store, small_config()) == where
