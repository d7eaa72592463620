"""What a training asks and writes around the training itself, without a store; with one it is in test_train_flow.py."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from dqn.config import DQNConfig
from dqn.finite import DivergedError, none_left
from dqn.training.machine import least
from flows.failures.errors import InputError, one_line
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.endings import end_diverged, failing
from flows.tracking.runs import PopulationRuns, describe_run, find_run
from flows.training import population
from flows.training.population import (
    PopulationSummary,
    check_resumable,
    check_writable,
    checkpoint_path,
    train_population,
)
from tests.support.flows.training import a_run, store

__all__ = ["store"]  # the fixture


@pytest.mark.parametrize(
    ("status", "tags", "checkpoint", "refusal"),
    [
        ("RUNNING", {}, True, None),
        ("RUNNING", {}, False, "has no checkpoint"),
        ("FAILED", {"trained": "true"}, False, None),
        ("FINISHED", {"trained": "true"}, True, "is finished, there is nothing to resume"),
    ],
)
def test_a_run_goes_on_from_its_checkpoint_or_from_its_networks(
    status: str, tags: dict[str, str], checkpoint: bool, refusal: str | None, store: Any, tmp_path: Path
) -> None:
    run_id = a_run(store, status, **tags)
    if checkpoint:
        checkpoint_path(tmp_path, run_id).touch()
    if refusal is None:
        check_resumable(store, run_id, str(tmp_path))
    else:
        with pytest.raises(InputError, match=f"run {run_id} {refusal}"):
            check_resumable(store, run_id, str(tmp_path))


def test_a_deleted_run_says_how_it_is_restored(store: Any, tmp_path: Path) -> None:
    run_id = a_run(store)
    store.get_run(run_id).info.lifecycle_stage = "deleted"
    with pytest.raises(InputError, match=f"was deleted in MLflow: .* `mlflow runs restore --run-id {run_id}`"):
        check_resumable(store, run_id, str(tmp_path))


def test_only_a_population_is_gone_on_with_and_a_child_names_its_parent(store: Any) -> None:
    with pytest.raises(InputError, match="there is no run 'r' in MLflow's tracking store"):
        find_run(store, "r")
    alone = store.create_run("1", {}).info.run_id
    with pytest.raises(InputError, match=f"run {alone} is not a population's$"):
        find_run(store, alone)
    child = store.create_run("1", {"mlflow.parentRunId": "p"}).info.run_id
    with pytest.raises(InputError, match=f"run {child} is not a population's; its parent p is"):
        find_run(store, child)


def test_a_run_with_several_worlds_has_no_best_agent() -> None:
    summary = PopulationSummary(agents=(), best_agent=None, seconds=1.0, cpu_seconds=1.0)
    with pytest.raises(InputError, match="have different worlds, in which none of them is the best"):
        _ = summary.best


def test_results_are_put_above_a_description_once(store: Any) -> None:
    run_id = a_run(store, **{"mlflow.note.content": "what it is"})
    for _ in range(2):
        describe_run(FencedClient(client=store, attempt=Attempt(run_id=run_id, token="t")), "how it ended")
    assert store.get_run(run_id).data.tags["mlflow.note.content"] == "how it ended\n\nwhat it is"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n first "), "first"),
        (ValueError(""), "ValueError"),
        (ValueError("API request failed with exception HTTPConnectionPool: x"), "API request failed"),
    ],
)
def test_an_error_is_told_in_its_first_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_a_directory_for_checkpoints_is_made_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "a" / "b"))
    check_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(InputError, match=r"cannot be written to /proc/no \(.*\); choose another directory"):
        check_writable("/proc/no")


class Writer:
    """Metrics that go nowhere; `confirmed` is how long ago this attempt was known to be the newest."""

    confirmed = 0.0
    broken = False

    def __init__(self, *_: Any, check: Any, params: Any, after_flush: Any) -> None:
        self.closed: list[dict[str, float]] = []
        Writer.last = self
        after_flush()

    last: "Writer"

    def write(self, records: Any) -> None: ...

    def write_population(self, *_: Any, **__: Any) -> None: ...

    def confirmed_within(self, seconds: float) -> bool:
        return self.confirmed <= seconds

    def close(self, **patience: float) -> None:
        self.closed.append(patience)
        if self.broken:
            raise ConnectionError("the store is away")


@pytest.fixture
def trained(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Calls `train_population` with another training in its place."""
    state = SimpleNamespace(
        environment=SimpleNamespace(spaces=least(DQNConfig())),
        metrics=SimpleNamespace(since=lambda _: []),
        environment_steps=0,
        agents=[0],
        learner=SimpleNamespace(updates=0),
    )
    monkeypatch.setattr(population, "_start", lambda *_: state)
    monkeypatch.setattr(population, "get_runs", lambda *_: {})
    monkeypatch.setattr(population, "MetricWriter", Writer)

    def call(training: Any, **options: Any) -> Any:
        monkeypatch.setattr("flows.training.population.loop.train", training)
        run_id = a_run(store)
        runs = PopulationRuns(parent=run_id, children=())
        fenced = FencedClient(client=store, attempt=Attempt(run_id=run_id, token="t"))
        return train_population(fenced, runs, DQNConfig(), tmp_path / "run.ckpt", **options)

    return call


@pytest.mark.parametrize(("ago", "saved"), [(0.0, True), (10.0, True), (10.5, False)])
def test_a_checkpoint_takes_the_place_of_another_only_where_no_newer_attempt_can_be(
    ago: float, saved: bool, trained: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[Any] = []

    def save(path: Path, state: Any, *, may_replace: Any) -> None:
        kept.append((path, state, may_replace()))

    monkeypatch.setattr(population, "save_checkpoint", save)
    monkeypatch.setattr(Writer, "confirmed", ago)
    told: list[Any] = []
    result = trained(lambda *_, on_checkpoint, **__: on_checkpoint("state") or "result", on_progress=told.append)
    assert (result, len(told)) == ("result", 1)
    assert kept == [(tmp_path / "run.ckpt", "state", True)] * saved
    assert Writer.last.closed == [{"patience": 180.0}]


@pytest.mark.parametrize("broken", [False, True])
def test_metrics_are_written_whatever_ends_a_training_and_its_own_error_is_reported(
    broken: bool, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "broken", broken)
    with pytest.raises(KeyboardInterrupt) as stopped:
        trained(interrupted)
    assert Writer.last.closed == [{}]
    assert getattr(stopped.value, "__notes__", []) == ["the store is away"] * broken


def test_speed_is_that_of_all_agents_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(population, "time", clock)
    state: Any = SimpleNamespace(environment_steps=1_000, agents=[0, 1])
    speed = population._Speed(state)
    measured = []
    for now, steps, agents in ((100.5, 1_100, 2), (101.0, 1_200, 2), (101.9, 1_300, 1), (103.0, 1_400, 0)):
        clock.now, state.environment_steps, state.agents = now, steps, [0] * agents
        measured.append(speed.measure())
    assert measured == [None, 400.0, None, 100.0]


@pytest.mark.parametrize(
    ("accepted", "line"),
    [
        (475.0, "update 30 of 2,000: 1 of 3 agents solved, mean return 15.0, 1 diverged"),
        (None, "update 30 of 2,000: mean return 15.0, 1 diverged"),
    ],
)
def test_a_log_is_told_how_far_training_is(accepted: float | None, line: str) -> None:
    config = dataclasses.replace(DQNConfig(), num_agents=3, max_updates=2_000, acceptance_return=accepted)
    state: Any = SimpleNamespace(
        config=config,
        learner=SimpleNamespace(updates=30),
        solved=torch.tensor([True, False, False]),
        last_return=torch.tensor([10.0, 20.0, 90.0]),
        diverged={2: (7, "loss is not finite")},
        sound=torch.tensor([0, 1]),
    )
    assert population._progress(state) == line


@pytest.mark.parametrize(("error", "status"), [(ValueError("odd"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
@pytest.mark.parametrize(("checkpoint", "tags"), [(True, {}), (False, {"trained": "true"}), (False, {})])
def test_what_ends_badly_says_how_to_go_on_where_that_is_possible(
    error: BaseException,
    status: str,
    checkpoint: bool,
    tags: dict[str, str],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = a_run(store, **tags)
    running, over = (a_run(store, status, **{MLFLOW_PARENT_RUN_ID: parent}) for status in ("RUNNING", "FINISHED"))
    path = tmp_path / "run.ckpt"
    if checkpoint:
        path.touch()
    error.__notes__ = []
    fenced = FencedClient(client=store, attempt=Attempt(run_id=parent, token="t"))
    with pytest.raises(type(error)), failing(fenced, path):
        raise error
    assert [store.get_run(run_id).info.status for run_id in (parent, running, over)] == [status, status, "FINISHED"]
    resumable = checkpoint or bool(tags)
    resuming = f'resume with: make train ARGS="--resume {parent} --checkpoint-dir {tmp_path}"'
    assert error.__notes__ == [resuming] * resumable
    monkeypatch.setattr("flows.tracking.endings.deployment_id", lambda: "a deployment")
    monkeypatch.setattr("flows.tracking.endings.flow_run_id", lambda: "f")
    error.__notes__ = []
    fenced = FencedClient(client=store, attempt=Attempt(run_id=parent, token="t"))
    with pytest.raises(type(error)), failing(fenced, path):
        raise error
    assert error.__notes__ == ["resume with: prefect flow-run retry f"] * resumable


def test_the_runs_of_agents_that_diverged_have_failed_and_say_why(store: Any) -> None:
    parent, *children = (a_run(store) for _ in range(4))
    runs = PopulationRuns(parent=parent, children=tuple(children))
    fenced = FencedClient(client=store, attempt=Attempt(run_id=parent, token="t"))
    end_diverged(fenced, runs, {1: (1234, "loss is not finite")})
    assert [store.get_run(child).info.status for child in children] == ["RUNNING", "FAILED", "RUNNING"]
    assert store.get_run(children[1]).data.tags["diverged"] == "after update 1,234: loss is not finite"


def test_where_all_diverged_each_run_says_why_and_the_error_goes_on(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(population, "end_diverged", lambda *given: told.append(given[-1]))

    def training(*_: Any, **__: Any) -> None:
        raise none_left({0: (7, "loss is not finite")})

    with pytest.raises(
        DivergedError, match=r"the only agent diverged, .* agent 00 after update 7 \(loss is not finite"
    ):
        trained(training)
    assert told == [{0: (7, "loss is not finite")}]
