"""The steps from a configuration to a registered and tested version.

Each takes and returns only references (a run id, a model id, a version). Its result is kept, so that a flow run that is
retried skips finished steps.
"""

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast
from uuid import UUID

import numpy as np
import torch
from mlflow.entities import Run

from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.networks.onnx import ModelProperties, export_onnx
from dqn.networks.population import QNetworks
from dqn.seeding import TEST, stream_seed
from dqn.stress.finalists import stressed
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult
from dqn.training.state import TrainingState
from flows.failures.environments import of_environment
from flows.failures.errors import one_line
from flows.orchestration.console import Estimate, say
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.returns import TEST_EPISODES, TEST_MEAN, TEST_MIN, Returns, log_test
from flows.serving_client import ADAPTATION_TAG, progress_of
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.endings import end_runs
from flows.tracking.runs import TRAINED_TAG, config_of, find_run, get_runs, has_artifact, read_runs, unless_deleted
from flows.tracking.store import connect
from flows.training.milestones import keep_learning
from flows.training.population import checkpoint_path, keep_result, read_networks, read_summary, train_population
from flows.training.warm_start import starting_network
from serving.policy import OnnxPolicy

AGENTS_FILE: Final = "evaluation/agents.json"

logger = logging.getLogger(__name__)


@step("train")
def train(run_id: str, checkpoint_dir: str, attempt: Attempt) -> str:
    """Train the population of a run and log its networks and summary there. Returns the run id."""
    fenced = FencedClient(client=connect(), attempt=attempt)
    run = find_run(fenced.client, run_id)
    checkpoint = checkpoint_path(checkpoint_dir, run_id)
    if TRAINED_TAG not in run.data.tags:
        _train(fenced, run, checkpoint)
    fenced.check()
    checkpoint.unlink(missing_ok=True)
    return run_id


def _train(fenced: FencedClient, run: Run, checkpoint: Path) -> None:
    runs = read_runs(fenced)
    config = config_of(run)
    show = _progress_artifact() if flow_run_id() else lambda _: None
    tell = progress_of(run.data.tags)

    def on_progress(state: TrainingState) -> None:
        show(100.0 * state.learner.updates / config.max_updates)
        tell(state)

    def test(result: TrainingResult) -> Mapping[str, Mapping[int, float]]:
        if adapting:
            return {}
        say(f"testing every agent on {TEST_EPISODES} unseen episodes")
        returns = _test_returns(result.best, config)
        _keep_returns(fenced, returns)
        sound = [agent.agent for agent in result.agents if agent.diverged is None]
        return {
            name: {k: float(of(returns[k])) for k in sound} for name, of in ((TEST_MEAN, np.mean), (TEST_MIN, np.min))
        }

    adapting = ADAPTATION_TAG in run.data.tags
    start = starting_network(fenced.client, run, versions.model_name(config.env_id))
    with of_environment(config.env_id):
        result = train_population(fenced, runs, config, checkpoint, start=start, test=test, on_progress=on_progress)
    if not adapting and not config.worlds:  # an adaptation is urgent, and any solved agent will do
        result = stressed(result)
        keep_learning(fenced, result)
    keep_result(fenced, runs, result)
    show(100.0)


@step("export")
def export(run_id: str, attempt: Attempt) -> str:
    """Log the best agent's policy as an ONNX model. Returns its model id."""
    client = connect()
    networks, config = read_networks(client, run_id)
    summary = read_summary(client, run_id)
    best = summary.best
    properties = ModelProperties.of(
        config, num_actions=networks.num_actions, run_id=run_id, agent=best.agent, observed=best.observed
    )
    exported = export_onnx(networks, properties, load=lambda model: OnnxPolicy.load(model).q_values)
    FencedClient(client=client, attempt=attempt).check()
    return versions.log_model(run_id, exported)


@step("test agents")
def test_agents(run_id: str, attempt: Attempt) -> str:
    """Play every agent's best network on test episodes, unless that was done after training.

    Returns:
        The artifact with the returns, `[A][episodes]`.
    """
    fenced = FencedClient(client=connect(), attempt=attempt)
    client = fenced.checked()
    uri = f"{client.get_run(run_id).info.artifact_uri}/{AGENTS_FILE}"
    if not has_artifact(client, run_id, AGENTS_FILE):
        networks, config = read_networks(client, run_id)
        returns = _test_returns(networks, config)
        sound = [agent.diverged is None for agent in read_summary(client, run_id).agents]
        children = list(itertools.compress(read_runs(fenced).children, sound))
        known = get_runs(client, children)
        for child, mine in fenced.in_batch(zip(children, returns[sound], strict=True)):
            if TEST_MEAN not in known[child].data.metrics:
                with unless_deleted(client, child):
                    log_test(client, child, mine)
        _keep_returns(fenced, returns)
    return uri


def _test_returns(networks: QNetworks, config: DQNConfig) -> Returns:
    """Returns `[A, TEST_EPISODES]` on episodes that neither training nor selection used."""
    seed = stream_seed(config.seed, TEST, 0)
    estimate = Estimate("agents tested", config.num_agents)
    with torch.no_grad(), torch_threads(config.num_threads), of_environment(config.env_id):
        returns = greedy_returns(
            networks,
            config.environment,
            config.worlds or config.world,
            episodes=TEST_EPISODES,
            seed=seed,
            on_progress=estimate,
        )
    return np.asarray(returns.numpy())


def _keep_returns(fenced: FencedClient, returns: Returns) -> None:
    fenced.checked().log_dict(fenced.run_id, {"returns": returns.tolist()}, AGENTS_FILE)


@step("finish", keeps_result=False)
def finish(attempt: Attempt) -> None:
    """Mark the run finished."""
    end_runs(FencedClient(client=connect(), attempt=attempt), (attempt.run_id,), "FINISHED")


def _progress_artifact() -> Callable[[float], None]:
    """Create a progress bar on the flow run's page. Returns a function that updates it."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    artifact = cast("UUID", create_progress_artifact(progress=0.0, key="training", description="gradient updates done"))

    def update(percent: float) -> None:
        try:
            with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 0}):  # the next one comes in seconds
                update_progress_artifact(artifact, progress=percent)
        except Exception as error:  # training does not depend on a display
            logger.warning("the progress artifact could not be updated: %s", one_line(error))

    return update
