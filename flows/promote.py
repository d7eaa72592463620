"""Who is served: the gate, promotion, and the way back."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from mlflow import MlflowClient
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from prefect.exceptions import ObjectAlreadyExists

from dqn.spec import environment_spec
from flows import registry
from flows.attempt import Attempt, fenced
from flows.parameters import InputError
from flows.registry import CHALLENGER, CHAMPION, PREVIOUS
from flows.stages import OVER_NETWORK, Returns, evaluate, play, read_returns
from flows.tracking import connect

GATE_EPISODES: Final = 100
"""Fewer episodes decide nothing."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a challenger becomes champion, and why."""

    promote: bool
    reason: str

    @property
    def gate(self) -> str:
        """As the version's tag."""
        return ("passed: " if self.promote else "refused: ") + self.reason


def should_promote(challenger: Returns, threshold: float | None, champion: Returns | None) -> Decision:
    """The gate: good enough for the environment, and not worse than the champion.

    Args:
        challenger: its returns `[N]` on unseen episodes.
        threshold: the environment's own `reward_threshold`, if it names one.
        champion: returns `[N]` of the champion on the same episodes, if there is one.
    """
    if len(challenger) < GATE_EPISODES:
        return Decision(promote=False, reason=f"{len(challenger)} episodes, at least {GATE_EPISODES} are needed")
    mean = float(challenger.mean())
    if threshold is not None and not mean >= threshold:
        return Decision(
            promote=False, reason=f"mean return {mean:g} is below the environment's threshold {threshold:g}"
        )
    if champion is not None and not mean >= champion.mean():
        return Decision(promote=False, reason=f"mean return {mean:g} is below the champion's {champion.mean():g}")
    against = "no threshold" if threshold is None else f"threshold {threshold:g}"
    rival = "no champion before" if champion is None else f"the champion has {champion.mean():g}"
    return Decision(promote=True, reason=f"mean return {mean:g} over {len(challenger)} episodes, {against}, {rival}")


@task(name="promote", **OVER_NETWORK)
def promote(name: str, version: int, evaluation: str, attempt: Attempt | None = None) -> str:
    """Send a version that has been evaluated through the gate. Returns its gate tag."""
    client = connect()
    with promotion_lock(name):
        decision = decide(client, name, version, read_returns(evaluation))
        registry.set_tags(fenced(client, attempt), name, version, {"gate": decision.gate})
        if decision.promote:
            move_champion(fenced(client, attempt), name, version)
    if decision.promote:
        emit_event(
            "dqn.policy.promoted",
            resource={"prefect.resource.id": f"mlflow.model.{name}", "prefect.resource.name": name},
            payload={"model": name, "version": version, "uri": f"models:/{name}@{CHAMPION}", "reason": decision.reason},
        )
    return decision.gate


def decide(client: MlflowClient, name: str, version: int, returns: Returns) -> Decision:
    """Hold a version's returns `[N]` against the environment's threshold and the champion on the same episodes."""
    policy = registry.download_policy(name, version)
    champion = registry.version_of(client, name, CHAMPION)
    rival = None
    if champion is not None and champion != version:
        rival = play(registry.download_policy(name, champion), policy)
    return should_promote(returns, environment_spec(policy.metadata.env_id).reward_threshold, rival)


def move_champion(client: MlflowClient, name: str, version: int) -> None:
    """Make a version champion and remember whom it follows."""
    champion = registry.version_of(client, name, CHAMPION)
    if champion != version:
        if champion is not None:
            registry.set_alias(client, name, PREVIOUS, champion)
        registry.set_alias(client, name, CHAMPION, version)
    if registry.version_of(client, name, CHALLENGER) == version:
        registry.remove_alias(client, name, CHALLENGER)


def return_to_previous(client: MlflowClient, name: str) -> int:
    """Make the previous champion champion again; returns its version.

    Raises:
        InputError: if there is none.
    """
    previous = registry.version_of(client, name, PREVIOUS)
    if previous is None:
        raise InputError(f"{name} has no previous champion to return to; promote another version instead")
    champion = registry.version_of(client, name, CHAMPION)
    registry.set_alias(client, name, CHAMPION, previous)
    registry.remove_alias(client, name, PREVIOUS)
    if champion is not None:
        registry.set_tags(client, name, champion, {"gate": f"rolled back to version {previous}"})
    return previous


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """One promotion of a model at a time, wherever it runs: aliases have no compare-and-set."""
    limit = f"promote-{name}"
    # Another promotion may just have created it.
    with get_client(sync_client=True) as prefect, suppress(ObjectAlreadyExists):
        prefect.upsert_global_concurrency_limit_by_name(limit, limit=1)
    with concurrency(limit, occupy=1, strict=True):
        yield


@flow(name="promote-policy")
def promote_policy(version: int, env_id: str = "CartPole-v1") -> str:
    """Evaluate a registered version again and make it champion if it passes the gate.

    Args:
        version: of the registered model `dqn-<env_id>`.
        env_id: the environment it plays.
    """
    name = registry.model_name(env_id)
    registry.get_version(connect(), name, version)
    return promote(name, version, evaluate(name, version))


@flow(name="rollback-policy")
def rollback_policy(env_id: str = "CartPole-v1") -> int:
    """Make the previous champion champion again.

    Args:
        env_id: the environment of the registered model `dqn-<env_id>`.
    """
    name = registry.model_name(env_id)
    client = connect()
    with promotion_lock(name):
        return return_to_previous(client, name)
