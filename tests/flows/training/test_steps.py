import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT
from prefect import flow
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.evaluation.greedy import greedy_returns
from dqn.seeding import TEST, stream_seed
from dqn.training.state import TrainingState
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.challenger import register
from flows.registry.returns import read_returns
from flows.reporting.draw import FINAL_RETURNS, LEARNING_CURVES, draw, draw_population
from flows.serving_client import ADAPTATION_TAG
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError, begin
from flows.tracking.runs import FLOW_RUN_TAG, complete_runs, open_run, read_runs
from flows.training.population import checkpoint_path, read_networks, read_summary
from flows.training.steps import _progress_artifact, export, finish, train
from flows.training.steps import test_agents as run_tests


@pytest.mark.slow
def test_attempts_share_the_results_of_stages_and_each_begins_anew(prefect_api: str) -> None:
    calls = []

    @step("kept")
    def kept(run_id: str, attempt: Attempt) -> str:
        calls.append(run_id)
        return run_id

    @step("beginning", keeps_result=False)
    def beginning(run_id: str) -> Attempt:
        calls.append("begin")
        return Attempt(run_id=run_id, token=str(len(calls)))

    @flow
    def both() -> None:
        for run_id in ("a", "a", "b"):
            kept(run_id, beginning(run_id))

    both()
    assert calls == ["begin", "a", "begin", "begin", "b"]


def test_a_picture_that_cannot_be_drawn_is_left_out_and_said_so(
    store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = store.create_run(store.create_experiment("drawing")).info.run_id
    fenced = FencedClient(client=store, attempt=begin(store, run_id))

    def broken() -> bytes:
        raise ZeroDivisionError("no data to scale by")

    draw(fenced, run_id, "broken.png", broken)
    draw(fenced, run_id, "none.png", lambda: None)
    draw(fenced, run_id, "some.png", lambda: b"pixels")
    assert [file.path for file in store.list_artifacts(run_id)] == ["some.png"]
    assert "broken.png could not be drawn: no data to scale by" in caplog.text
    begin(store, run_id)
    with pytest.raises(StaleAttemptError):
        draw(fenced, run_id, "late.png", lambda: b"pixels")
    assert [file.path for file in store.list_artifacts(run_id)] == ["some.png"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress that Prefect's page was told, in percent."""
    told: list[float] = []

    def create(*, progress: float, **_: str) -> UUID:
        told.append(progress)
        return UUID(int=7)

    def update(artifact: UUID, *, progress: float) -> None:
        assert artifact == UUID(int=7)
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 0  # a display is not waited for
        told.append(progress)

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", create)
    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", update)
    monkeypatch.setattr("flows.training.steps.flow_run_id", lambda: "a flow run")
    return told


def begun(store: MlflowClient, config: DQNConfig, flow_run_id: str) -> Attempt:
    attempt = begin(store, open_run(store, config, preset="cartpole", flow_run_id=flow_run_id, tags={}))
    complete_runs(FencedClient(client=store, attempt=attempt), config, flow_run_id=flow_run_id)
    return attempt


def models_of(store: MlflowClient, run_id: str) -> list[LoggedModel]:
    """What the run's page and its experiment's list as models of the run."""
    experiment = store.get_run(run_id).info.experiment_id
    return store.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")


@pytest.mark.slow
def test_stages_pass_on_what_they_leave_and_do_nothing_twice(
    store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path, shown: list[float]
) -> None:
    config = small_config(num_agents=2, seed=3, acceptance_return=None, world=World(length=0.6))
    attempt = begun(store, config, "stages")
    run_id = attempt.run_id
    begun_at = time.time()

    assert train.fn(run_id, str(tmp_path), attempt) == run_id
    assert (shown[0], shown[-1]) == (0.0, 100.0)
    assert shown == sorted(shown)
    checkpoint_path(tmp_path, run_id).touch()  # of an attempt that died before it removed it
    assert train.fn(run_id, str(tmp_path), attempt) == run_id
    assert shown.count(0.0) == 1, "it was trained again"
    assert not list(tmp_path.iterdir())
    assert train.fn(run_id, str(tmp_path), attempt) == run_id

    model_id = export.fn(run_id, attempt)
    assert [model.model_id for model in models_of(store, run_id)] == [model_id]
    assert store.get_logged_model(model_id).params["gamma"] == str(config.gamma)
    version = register.fn(run_id, model_id, attempt)
    assert register.fn(run_id, model_id, attempt) == version
    name = "dqn-CartPole-v1"
    assert versions.version_of(store, name, versions.CHALLENGER) == version
    tags = versions.get_version(store, name, version).tags
    assert tags[FLOW_RUN_TAG] == "stages"
    assert tags["git_commit"] == store.get_run(run_id).data.tags[MLFLOW_GIT_COMMIT]
    assert (tags["world"], tags["gate"]) == ("length 0.6", "not evaluated yet")
    policy = versions.download(name, version).policy
    networks, _ = read_networks(store, run_id)
    best = read_summary(store, run_id).best_agent
    observation = torch.randn(2, 5, 4)
    torch.testing.assert_close(
        torch.from_numpy(policy.q_values(observation[best].numpy())), networks(observation)[best]
    )
    metadata = policy.metadata
    assert (metadata.action_meanings, metadata.run_id, metadata.seed) == (("left", "right"), run_id, 3)
    assert (metadata.config_sha256, metadata.world) == (config.sha256, config.world)

    children = read_runs(FencedClient(client=store, attempt=attempt)).children
    uri = run_tests.fn(run_id, attempt)
    assert run_tests.fn(run_id, attempt) == uri
    returns = read_returns(uri)
    seed = stream_seed(3, TEST, 0)
    expected = greedy_returns(networks, config.env_id, config.world, episodes=100, seed=seed)
    assert returns.tolist() == expected.tolist()
    for child, mine in zip(children, returns, strict=True):
        for key, value in (("test/mean_return", mine.mean()), ("test/min_return", mine.min())):
            (metric,) = store.get_metric_history(child, key)
            assert (metric.value, metric.step) == (value, 0)
            assert 1000 * begun_at - 1 <= metric.timestamp <= 1000 * time.time()
    draw_population.fn(run_id, uri, attempt)
    files = {file.path for file in store.list_artifacts(run_id)}
    assert {LEARNING_CURVES, FINAL_RETURNS} <= files

    begin(store, run_id)
    checkpoint_path(tmp_path, run_id).touch()
    for stale in (
        lambda: train.fn(run_id, str(tmp_path), attempt),
        lambda: export.fn(run_id, attempt),
        lambda: register.fn(run_id, model_id, attempt),
        lambda: run_tests.fn(run_id, attempt),
    ):
        with pytest.raises(StaleAttemptError):
            stale()
    assert checkpoint_path(tmp_path, run_id).exists()
    assert [model.model_id for model in models_of(store, run_id)] == [model_id]


@pytest.mark.parametrize("adapting", [False, True])
def test_progress_is_shown_and_an_adaptation_waits_for_no_stress_test(
    store: MlflowClient,
    small_config: Callable[..., DQNConfig],
    tmp_path: Path,
    shown: list[float],
    monkeypatch: pytest.MonkeyPatch,
    adapting: bool,
) -> None:
    config = small_config(max_updates=120)
    told: list[TrainingState] = []
    kept: list[tuple[str, object]] = []
    tags = {ADAPTATION_TAG: "a drift"} if adapting else {}
    attempt = begin(store, open_run(store, config, preset="cartpole", flow_run_id=f"adapting {adapting}", tags=tags))
    complete_runs(FencedClient(client=store, attempt=attempt), config, flow_run_id=f"adapting {adapting}")
    state: Any = SimpleNamespace(learner=SimpleNamespace(updates=30))

    def train_population(*_: object, on_progress: Callable[[TrainingState], None], **__: object) -> str:
        on_progress(state)
        return "trained"

    monkeypatch.setattr("flows.training.steps.train_population", train_population)
    monkeypatch.setattr("flows.training.steps.progress_of", lambda tags: told.append)
    monkeypatch.setattr("flows.training.steps.stressed", lambda result: f"{result}, stressed")
    monkeypatch.setattr("flows.training.steps.keep_learning", lambda *given: kept.append(("learning", given[-1])))
    monkeypatch.setattr("flows.training.steps.keep_result", lambda *given: kept.append(("result", given[-1])))
    train.fn(attempt.run_id, str(tmp_path), attempt)
    assert shown == [0.0, 25.0, 100.0]
    assert told == [state]
    if adapting:
        assert kept == [("result", "trained")]
    else:
        assert kept == [("learning", "trained, stressed"), ("result", "trained, stressed")]


@pytest.mark.slow
def test_an_agent_with_a_deleted_run_is_left_out_of_the_tests(
    store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path, shown: list[float]
) -> None:
    attempt = begun(store, small_config(num_agents=2, max_updates=1, env_id="ProbeActionReward-v0"), "one deleted")
    train.fn(attempt.run_id, str(tmp_path), attempt)
    deleted, kept = read_runs(FencedClient(client=store, attempt=attempt)).children
    store.delete_run(deleted)
    run_tests.fn(attempt.run_id, attempt)
    assert "test/mean_return" in store.get_run(kept).data.metrics
    version = register.fn(attempt.run_id, export.fn(attempt.run_id, attempt), attempt)
    policy = versions.download("dqn-ProbeActionReward-v0", version).policy
    assert policy.metadata.action_meanings == ("action 0", "action 1")


def test_progress_that_cannot_be_shown_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", lambda **_: UUID(int=7))
    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", away)
    _progress_artifact()(50.0)
    assert "the progress artifact could not be updated: refused" in caplog.text


def test_only_the_newest_attempt_finishes_a_run(store: MlflowClient, small_config: Callable[..., DQNConfig]) -> None:
    run_id = open_run(store, small_config(), preset="cartpole", flow_run_id=None, tags={})
    stale, newest = begin(store, run_id), begin(store, run_id)
    complete_runs(FencedClient(client=store, attempt=newest), small_config(), flow_run_id=None)
    finish_now = finish.fn
    with pytest.raises(StaleAttemptError):
        finish_now(stale)
    assert store.get_run(run_id).info.status == "RUNNING"
    finish_now(newest)
    assert store.get_run(run_id).info.status == "FINISHED"
