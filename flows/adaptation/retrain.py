"""Training in the identified world."""

import dataclasses
from typing import Any, Final

from mlflow import MlflowClient

from dqn.environments.world import World
from dqn.identification import by_step
from dqn.presets import PRESETS, PresetName
from flows.adaptation import beyond_cartpole
from flows.adaptation.timeline import Adaptation
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.challenger import register
from flows.registry.evaluation import evaluate
from flows.registry.gate_tag import undecided_if_ended
from flows.serving_client import ADAPTATION_TAG, SHOW_TAG
from flows.tracking.attempt import Attempt, FencedClient, begin
from flows.tracking.endings import failing
from flows.tracking.runs import complete_runs, open_run
from flows.tracking.store import connect
from flows.training.population import checkpoint_path
from flows.training.steps import export, train

PRESET: Final[PresetName] = "cartpole"
NUM_AGENTS: Final = 8
MAX_UPDATES: Final = 2_000
"""Half of the preset's: one agent that solves the world is enough."""


def trained(
    adaptation: Adaptation, env_id: str, seed: int, world: dict[str, Any], checkpoint_dir: str
) -> tuple[int, str, Attempt]:
    """Train a version in the world. Returns its number, its evaluation, and the attempt at its run."""
    training = begin_training(env_id, seed, world, adaptation.show.url, adaptation.show.drift, checkpoint_dir)
    number = beyond_cartpole.NUM_AGENTS if env_id in by_step.ENVIRONMENTS else NUM_AGENTS
    adaptation.tell("training", f"{number} agents", progress=0.0, run=training.run_id)
    fenced = FencedClient(client=MlflowClient(), attempt=training)
    with failing(fenced, checkpoint_path(checkpoint_dir, training.run_id)):
        run_id = train(training.run_id, checkpoint_dir, training)
        version, model = register(run_id, export(run_id, training), training), versions.model_name(env_id)
        with undecided_if_ended(fenced, model, version):
            evaluation = evaluate(model, version, training, stressed=False)
        return version, evaluation, training


@step("begin training", keeps_result=False)
def begin_training(
    env_id: str, seed: int, world: dict[str, Any], serving: str, drift: str, checkpoint_dir: str = "checkpoints"
) -> Attempt:
    """Begin an attempt at the training run of the adaptation.

    Args:
        env_id: the environment.
        seed: of the training: the number of the version that played, from which it starts beyond CartPole.
        world: to train in.
        serving: URL of the server that waits.
        drift: its id.
        checkpoint_dir: directory of the training state.
    """
    client, preset, start = connect(), PRESET, dict[str, str]()
    config = dataclasses.replace(
        PRESETS[PRESET],
        env_id=env_id,
        seed=seed,
        num_agents=NUM_AGENTS,
        max_updates=MAX_UPDATES,
        acceptance_epsilon=0.0,  # few agents balance in a hard world with random actions too
        world=World.from_dict(world),
    )
    if env_id in by_step.ENVIRONMENTS:
        config, preset, start = beyond_cartpole.warm(client, env_id, seed, config.world)
    tags = {ADAPTATION_TAG: drift, SHOW_TAG: serving, **start}
    run_id = open_run(client, config, preset=preset, flow_run_id=flow_run_id(), tags=tags)
    attempt = begin(client, run_id)
    fenced = FencedClient(client=client, attempt=attempt)
    with failing(fenced, checkpoint_path(checkpoint_dir, run_id)):
        complete_runs(fenced, config, flow_run_id=flow_run_id())
    return attempt
