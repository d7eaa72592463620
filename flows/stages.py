"""The stages between a configuration and a registered, tested version, as Prefect tasks.

Each takes and returns references alone (a run id, a model id, a version) and keeps its result, so that a flow run that
is retried skips what is finished.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast
from uuid import UUID

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from dqn.device import torch_threads
from dqn.export import ModelProperties, export_onnx
from dqn.seeding import TEST, stream_seed
from dqn.selection import greedy_returns
from dqn.state import TrainingState
from dqn.training import stressed
from flows import registry
from flows.attempt import Attempt, check, fenced
from flows.endings import end_runs
from flows.flow_run import flow_run_id
from flows.gate_tag import PENDING
from flows.learning import keep_learning
from flows.population import checkpoint_path, keep_result, read_networks, read_summary, train_population
from flows.show import ADAPTATION_TAG, progress_of
from flows.stage import stage
from flows.tracking import (
    FLOW_RUN_TAG,
    TRAINED_TAG,
    connect,
    find_run,
    one_line,
    read_config,
    read_runs,
    unless_deleted,
)
from flows.warm_start import starting_network
from serving.policy import OnnxPolicy

Returns = npt.NDArray[np.float64]

TEST_MEAN: Final = "test/mean_return"
TEST_MIN: Final = "test/min_return"
TEST_EPISODES: Final = 100
AGENTS_FILE: Final = "evaluation/agents.json"

logger = logging.getLogger(__name__)


@stage("train")
def train(run_id: str, checkpoint_dir: str, attempt: Attempt) -> str:
    """Train the population of a run; networks and summary stay in the run. Returns the run id."""
    client = connect()
    run = find_run(client, run_id)
    checkpoint = checkpoint_path(checkpoint_dir, run_id)
    if TRAINED_TAG not in run.data.tags:
        _train(client, attempt, checkpoint)
    check(client, attempt)
    checkpoint.unlink(missing_ok=True)
    return run_id


def _train(client: MlflowClient, attempt: Attempt, checkpoint: Path) -> None:
    run_id = attempt.run_id
    runs = read_runs(client, attempt)
    config = read_config(client, run_id)
    show = _progress_artifact() if flow_run_id() else lambda _: None
    run = find_run(client, run_id)
    tell = progress_of(run.data.tags)

    def on_progress(state: TrainingState) -> None:
        show(100.0 * state.learner.updates / config.max_updates)
        tell(state)

    start = starting_network(client, run, config)
    result = train_population(client, attempt, runs, config, checkpoint, start=start, on_progress=on_progress)
    if ADAPTATION_TAG not in run.data.tags:  # somebody waits for an adaptation, and any solved agent will do
        result = stressed(result)
        keep_learning(client, attempt, result)
    keep_result(client, attempt, runs, result)
    show(100.0)


@stage("export")
def export(run_id: str, attempt: Attempt) -> str:
    """Log the best agent's policy as an ONNX model. Returns its model id."""
    client = connect()
    networks, config = read_networks(client, run_id)
    summary = read_summary(client, run_id)
    best = summary.agents[summary.best_agent]
    properties = ModelProperties.of(
        config, num_actions=networks.num_actions, run_id=run_id, agent=best.agent, observed=best.observed
    )
    exported = export_onnx(networks, properties, load=lambda model: OnnxPolicy.load(model).q_values)
    check(client, attempt)
    return registry.log_model(run_id, exported)


@stage("register")
def register(run_id: str, model_id: str, attempt: Attempt) -> int:
    """Register a logged model as challenger. Returns its version."""
    client = connect()
    run = find_run(client, run_id)
    config = read_config(client, run_id)
    tags = {
        "git_commit": run.data.tags.get(MLFLOW_GIT_COMMIT, "unknown"),
        **{key: value for key, value in run.data.tags.items() if key == FLOW_RUN_TAG},
        "world": str(config.world),
        registry.WORLD_TAG: json.dumps(config.world.to_dict()),
        "gate": PENDING,
    }
    name = registry.model_name(config.env_id)
    version = registry.register(fenced(client, attempt), name, model_id=model_id, run_id=run_id, tags=tags)
    registry.set_alias(fenced(client, attempt), name, registry.CHALLENGER, version)
    return version


@stage("test agents")
def test_agents(run_id: str, attempt: Attempt) -> str:
    """Play every agent's best network on unseen episodes. Returns the artifact with the returns, `[A][episodes]`."""
    client = connect()
    runs = read_runs(client, attempt)
    networks, config = read_networks(client, run_id)
    seed = stream_seed(config.seed, TEST, 0)
    with torch_threads(config.num_threads):
        returns = greedy_returns(networks, config.env_id, config.world, episodes=TEST_EPISODES, seed=seed).numpy()
    agents = read_summary(client, run_id).agents
    for agent, child, mine in zip(agents, runs.children, returns, strict=True):
        if agent.diverged is not None:
            continue
        with unless_deleted(client, child):
            if TEST_MEAN not in client.get_run(child).data.metrics:
                log_test(fenced(client, attempt), child, mine)
    fenced(client, attempt).log_dict(run_id, {"returns": returns.tolist()}, AGENTS_FILE)
    return f"{client.get_run(run_id).info.artifact_uri}/{AGENTS_FILE}"


def read_returns(uri: str) -> Returns:
    """The returns that `evaluate` `[episodes]` or `test_agents` `[A, episodes]` left in an artifact."""
    return np.asarray(mlflow.artifacts.load_dict(uri)["returns"])


def log_test(client: MlflowClient, run_id: str, returns: Returns, *, model_id: str | None = None) -> None:
    """Log the mean and the minimum of returns `[episodes]`, linked to a logged model where one is named."""
    now = int(time.time() * 1000)
    values = {TEST_MEAN: returns.mean(), TEST_MIN: returns.min()}
    metrics = [Metric(key, float(value), now, 0, model_id=model_id) for key, value in values.items()]
    client.log_batch(run_id, metrics=metrics)


@stage("finish", keeps_result=False)
def finish(attempt: Attempt) -> None:
    """Mark the run finished."""
    client = connect()
    end_runs(client, attempt, (attempt.run_id,), "FINISHED")


def _progress_artifact() -> Callable[[float], None]:
    """Create the bar on the flow run's page; returns what moves it."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    artifact = cast("UUID", create_progress_artifact(progress=0.0, key="training", description="gradient updates done"))

    def update(percent: float) -> None:
        try:
            with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 0}):  # the next one comes in seconds
                update_progress_artifact(artifact, progress=percent)
        except Exception as error:  # a display; training goes on without it, and the log says so
            logger.warning("the progress artifact could not be updated: %s", one_line(error))

    return update
