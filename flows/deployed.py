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
    """Abort the flow run of a stale attempt without setting its state, which belongs to the newer attempt."""

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
    """`flows.train.train_dqn` with heartbeats."""
    with heartbeats():
        return train.train_dqn(*args, **kwargs)


@flow(name="adapt-policy")
@aborts_when_stale
@functools.wraps(adapt.adapt_policy)
def adapt_policy(*args: Any, **kwargs: Any) -> State[Any]:
    """`flows.adapt.adapt_policy` with heartbeats. The outcome becomes the name of the flow run's state."""
    with heartbeats():
        outcome, text = adapt.adapt_policy(*args, **kwargs)
    return Completed(name=outcome.capitalize(), message=text)


@flow(name="sweep-dqn")
@aborts_when_stale
@functools.wraps(sweep.sweep_dqn)
def sweep_dqn(*args: Any, **kwargs: Any) -> str:
    """`flows.sweep.sweep_dqn` with heartbeats."""
    with heartbeats():
        return sweep.sweep_dqn(*args, **kwargs)


@flow(name="sweep-shard")
@functools.wraps(sweep.try_shard)
def sweep_shard(*args: Any, **kwargs: Any) -> None:
    """`flows.sweep.try_shard` with heartbeats."""
    with heartbeats():
        sweep.try_shard(*args, **kwargs)


@flow(name="promote-policy")
@aborts_when_stale
def promote_policy(version: int, env_id: str = "CartPole-v1", force: bool = False) -> str:
    """Evaluate a registered version again and make it champion if it passes the gate.

    Args:
        version: a version of the registered model `dqn-<env_id>`.
        env_id: its environment.
        force: make it champion whatever the gate decides; the decision stays in the version's gate tag.
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
