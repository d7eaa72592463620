"""The flows as Prefect deploys and runs them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.states import Completed

from flows import adapt, bank, promotion, sweep, train
from flows.names import model_name
from flows.orchestration.flow_run import deployment_id
from flows.orchestration.heartbeat import heartbeats
from flows.tracking.attempt import StaleAttemptError

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


def shown(report: str) -> str:
    """Write a report to the log of a deployment's run, which the terminal that started it follows. Returns it."""
    if deployment_id():
        print(report)
    return report


@flow(name="train-dqn")
@aborts_when_stale
@functools.wraps(train.train_dqn)
def train_dqn(*args: Any, **kwargs: Any) -> str:
    """`flows.train.train_dqn` with heartbeats."""
    with heartbeats():
        return shown(train.train_dqn(*args, **kwargs))


@flow(name="adapt-policy")
@aborts_when_stale
@functools.wraps(adapt.adapt_policy)
def adapt_policy(*args: Any, **kwargs: Any) -> State[Any]:
    """`flows.adapt.adapt_policy` with heartbeats. The outcome becomes the name of the flow run's state."""
    with heartbeats():
        outcome, text = adapt.adapt_policy(*args, **kwargs)
    return Completed(name=outcome.capitalize(), message=text)


@flow(name="bank-dqn")
@aborts_when_stale
@functools.wraps(bank.bank_dqn)
def bank_dqn(*args: Any, **kwargs: Any) -> str:
    """`flows.bank.bank_dqn` with heartbeats."""
    with heartbeats():
        return shown(bank.bank_dqn(*args, **kwargs))


@flow(name="sweep-dqn")
@aborts_when_stale
@functools.wraps(sweep.sweep_dqn)
def sweep_dqn(*args: Any, **kwargs: Any) -> str:
    """`flows.sweep.sweep_dqn` with heartbeats."""
    with heartbeats():
        return shown(sweep.sweep_dqn(*args, **kwargs))


@flow(name="sweep-shard")
@functools.wraps(sweep.try_shard)
def sweep_shard(*args: Any, **kwargs: Any) -> None:
    """`flows.sweep.try_shard` with heartbeats."""
    with heartbeats():
        sweep.try_shard(*args, **kwargs)


@flow(name="promote-policy")
@aborts_when_stale
def promote_policy(
    version: int, env_id: str = "CartPole-v1", force: bool = False, shadow_steps: int = 0
) -> Any:  # a State, of which a caller gets the result
    """Evaluate a registered version again and make it champion if it passes the gate.

    The flow run's state says which: Promoted, Refused or Forced, with the gate's reason. Its result is the gate tag.

    Args:
        version: a version of the registered model `dqn-<env_id>`.
        env_id: its environment.
        force: make it champion whatever the gate decides; the decision stays in the version's gate tag.
        shadow_steps: refuse it unless it has agreed with the champion in so many steps in the server's shadow.
    """
    gate = promotion.promote_version(version, env_id, force, shadow_steps)
    name = {"refused": "Refused", "forced": "Forced"}.get(gate.partition(":")[0], "Promoted")
    return Completed(name=name, message=gate, data=gate)


@flow(name="rollback-policy")
@aborts_when_stale
def rollback_policy(env_id: str = "CartPole-v1") -> State[Any]:
    """Make the champion before the present one champion again; once more goes one further back.

    Args:
        env_id: the environment of the registered model `dqn-<env_id>`.
    """
    version, sentence = promotion.roll_back(model_name(env_id))
    return Completed(name="Rolled back", message=sentence, data=version)
