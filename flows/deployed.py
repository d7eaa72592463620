"""The flows as Prefect deploys and runs them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mlflow import MlflowClient
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.states import Completed

from flows import adapt, sweep, train
from flows.orchestration.heartbeat import heartbeats
from flows.promotion import find_model, roll_back
from flows.registry import versions
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate
from flows.registry.gate_tag import undecided_if_ended
from flows.reporting.draw import draw_version
from flows.tracking.attempt import FencedClient, StaleAttemptError

P = ParamSpec("P")
R = TypeVar("R")


def aborts_when_stale(function: Callable[P, R]) -> Callable[P, R]:
    """End a stale attempt without a state of its own: that of the flow run is the newer attempt's."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StaleAttemptError as error:
            raise Abort(str(error)) from error

    return call


@flow(name="train-dqn")
@aborts_when_stale
@functools.wraps(train.train_dqn)
def train_dqn(*args: Any, **kwargs: Any) -> str:
    """As in flows.train, with signs of life."""
    with heartbeats():
        return train.train_dqn(*args, **kwargs)


@flow(name="adapt-policy")
@aborts_when_stale
@functools.wraps(adapt.adapt_policy)
def adapt_policy(*args: Any, **kwargs: Any) -> State[Any]:
    """As in flows.adapt, with signs of life; how it ended is the state's name."""
    with heartbeats():
        stage, text = adapt.adapt_policy(*args, **kwargs)
    return Completed(name=stage.capitalize(), message=text)


@flow(name="sweep-dqn")
@aborts_when_stale
@functools.wraps(sweep.sweep_dqn)
def sweep_dqn(*args: Any, **kwargs: Any) -> str:
    """As in flows.sweep, with signs of life."""
    with heartbeats():
        return sweep.sweep_dqn(*args, **kwargs)


@flow(name="sweep-shard")
@functools.wraps(sweep.try_shard)
def sweep_shard(*args: Any, **kwargs: Any) -> None:
    """As in flows.sweep, with signs of life."""
    with heartbeats():
        sweep.try_shard(*args, **kwargs)


@flow(name="promote-policy")
@aborts_when_stale
def promote_policy(version: int, env_id: str = "CartPole-v1", force: bool = False) -> str:
    """Evaluate a registered version again and make it champion if it passes the gate.

    Args:
        version: of the registered model `dqn-<env_id>`.
        env_id: the environment it plays.
        force: make it champion whatever the gate says; the version's gate tag keeps what it said.
    """
    name = find_model(version, env_id)
    with undecided_if_ended(FencedClient(client=MlflowClient(), attempt=None), name, version):
        evaluation = evaluate(name, version)
    gate = promote(name, version, evaluation, force=force)
    draw_version(name, version, evaluation)
    return gate


@flow(name="rollback-policy")
@aborts_when_stale
def rollback_policy(env_id: str = "CartPole-v1") -> int:
    """Make the previous champion champion again.

    Args:
        env_id: the environment of the registered model `dqn-<env_id>`.
    """
    return roll_back(versions.model_name(env_id))
