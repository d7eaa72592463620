"""Who is served: through the gate, promotion, and the way back."""

if __name__ == "__main__":  # before anything below is imported
    import sys

    asked = sys.argv[1:] in (["--help"], ["-h"])
    print(
        "usage: prefect deployment run promote-policy/default -p version=3 [-p env_id=CartPole-v1] [-p force=true]\n\n"
        "This module has no command of its own: a training promotes its version, and the deployment another one.",
        file=sys.stdout if asked else sys.stderr,
    )
    raise SystemExit(0 if asked else 2)

import dataclasses
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import mlflow
from mlflow import MlflowClient

from dqn.environments.world import World
from dqn.stress.robustness import StressTest
from flows import registry
from flows.attempt import Attempt, fenced
from flows.evaluation import SEED_TAG, play, play_on, read_stress, require_playable, threshold_of, under_stress
from flows.flow_run import flow_run_id
from flows.gate import Champion, Decision, should_promote
from flows.gate_tag import not_promoted_if_ended, undecided_if_ended
from flows.machine_lock import machine_lock
from flows.parameters import InputError
from flows.registry import CHALLENGER, CHAMPION, DIGEST_TAG, PREVIOUS, RegistryError
from flows.stage import stage
from flows.stages import Returns, read_returns
from flows.tracking import connect, one_line
from serving.policy import PolicyMetadata

PROMOTION_TAG: Final = "promotion"
ROLLBACK_TAG: Final = "rollback"
"""Of a version that was returned to: the flow run that asked for it."""
MARGIN_USED_TAG: Final = "gate.margin_used"
"""Of a version that was promoted without being better: `Champion.margin_used`."""
_LEASE_SECONDS: Final = 60.0
"""After which the lock of a promotion that died is free again; Prefect takes no less."""

logger = logging.getLogger(__name__)


class OvertakenError(RuntimeError):
    """Another promotion of the model has begun; the message names both. What was about to be promoted is not."""


@stage("promote")
def promote(
    name: str,
    version: int,
    evaluation: str,
    attempt: Attempt | None = None,
    force: bool = False,
    world: dict[str, Any] | None = None,
) -> str:
    """Send a version that has been evaluated through the gate. Returns its gate tag.

    Args:
        name: of the registered model.
        version: the challenger.
        evaluation: where `evaluate` left its returns.
        attempt: which one writes, in a training.
        force: promote it whatever the gate says; a person's doing.
        world: what both play in, as it is now; None for that which the challenger was trained for.
    """
    client = connect()
    with undecided_if_ended(client, name, version, attempt), promotion_lock(name):
        token, champion = None, registry.version_of(client, name, CHAMPION)
        if champion != version:  # the champion's own promotion moves nothing, and must not overtake one that does
            token = begin_promotion(client, name)
            champion = registry.version_of(client, name, CHAMPION)  # the token fences what is read from here on
        gate = registry.get_version(client, name, version).tags.get("gate", "")
        if champion == version and gate.startswith(("passed", "forced")):  # by an attempt that died right after it
            remove_challenger(client, name, version, token)
            return gate
        stress = read_stress(evaluation)
        rival = play_rival(client, name, version, champion, world, stressed=stress is not None)
        decision = decide(client, name, version, rival, read_returns(evaluation), stress, world)
        gate = f"forced: the gate said {decision.gate}" if force else decision.gate
        gate += f" (in the world {World.from_dict(world)})" if world is not None else ""
        hold(client, name, token)
        registry.set_tags(fenced(client, attempt), name, version, {"gate": gate})
        if decision.margin_used:
            hold(client, name, token)
            used = {MARGIN_USED_TAG: f"{decision.margin_used:.3f}"}
            registry.set_tags(fenced(client, attempt), name, version, used)
        if token is None:
            remove_challenger(fenced(client, attempt), name, version, token)
        elif decision.promote or force:
            with not_promoted_if_ended(client, name, version, attempt, gate):
                move_champion(fenced(client, attempt), name, version, token)
    if rival and rival.returns is not None:
        run_id = str(registry.get_version(client, name, version).run_id)
        content = {
            "version": rival.version,
            "stress": rival.stress and rival.stress.to_dict(),
            "comparison": decision.comparison and decision.comparison.to_dict(),
        }
        fenced(client, attempt).log_dict(run_id, content, _champion_file(version))
    if token and (decision.promote or force):
        _announce(name, version, gate)
    return gate


def read_champion_stress(client: MlflowClient, run_id: str, version: int) -> dict[str, StressTest]:
    """What the champion that a version was held against withstood in the same episodes, by its name; or nothing."""
    content = _read_champion(client, run_id, version)
    if not content.get("stress"):
        return {}
    return {f"champion, version {content['version']}": StressTest.from_dict(content["stress"])}


def read_comparison(client: MlflowClient, run_id: str, version: int) -> dict[str, Any]:
    """`Comparison.to_dict` of a version and the champion that it was held against; or nothing."""
    return _read_champion(client, run_id, version).get("comparison") or {}


def play_rival(
    client: MlflowClient,
    name: str,
    version: int,
    champion: int | None,
    world: dict[str, Any] | None = None,
    *,
    stressed: bool = True,
) -> Champion | None:
    """The champion on the episodes of a version, unless there is none or it is that version."""
    if champion is None or champion == version:
        return None
    seed = int(registry.get_version(client, name, version).tags[SEED_TAG])
    challenger = registry.download(name, version).policy.metadata
    if world is not None:
        challenger = dataclasses.replace(challenger, world=World.from_dict(world))
    rival = play_champion(name, champion, challenger, seed=seed, stressed=stressed)
    used = registry.get_version(client, name, champion).tags.get(MARGIN_USED_TAG, "0")
    return dataclasses.replace(rival, margin_used=float(used))


def decide(
    client: MlflowClient,
    name: str,
    version: int,
    rival: Champion | None,
    returns: Returns,
    stress: StressTest | None,
    world: dict[str, Any] | None,
) -> Decision:
    """Hold what a version returned `[N]` and withstood against the environment's threshold and the champion.

    Both play further episodes for as long as the gate asks for them.
    """
    tags = registry.get_version(client, name, version).tags
    challenger = registry.download(name, version)
    if challenger.sha256 != tags[DIGEST_TAG]:
        reason = f"the file of {challenger} is not the one that was evaluated any more"
        return Decision(promote=False, outcome="invalid", reason=reason)
    policy = challenger.policy
    threshold, at_home = threshold_of(policy.metadata.env_id), world is not None
    played = policy.metadata.world if world is None else World.from_dict(world)
    decision = should_promote(returns, threshold, rival, stress, at_home)
    while decision.episodes and rival and rival.returns is not None:
        more = {"version": version, "episodes": decision.episodes}
        champion = registry.download(name, rival.version).policy
        returns = play_on(policy, played, returns, **more)
        rival = dataclasses.replace(rival, returns=play_on(champion, played, rival.returns, **more))
        decision = should_promote(returns, threshold, rival, stress, at_home)
    return decision


def play_champion(name: str, version: int, challenger: PolicyMetadata, *, seed: int, stressed: bool) -> Champion:
    """The champion on the challenger's episodes, in the challenger's world.

    One whose file is gone or broken is no obstacle: the store has just handed out the challenger's. One that plays
    another environment is: it works, and users of the model are served by it.
    """
    try:
        artifact = registry.download(name, version)
        env_id = artifact.policy.metadata.env_id
        if env_id != challenger.env_id:
            return Champion(version=version, returns=None, other_env_id=env_id)
        require_playable(artifact, challenger.env_id)
    except RegistryError as error:
        return Champion(version=version, returns=None, fault=str(error))
    return Champion(
        version=version,
        returns=play(artifact.policy, challenger.world, seed=seed),
        stress=under_stress(artifact.policy, challenger.world, seed=seed) if stressed else None,
    )


def move_champion(client: MlflowClient, name: str, version: int, token: str) -> None:
    """Make a version champion and remember whom it follows; done again after a failure it ends the same."""
    champion = registry.version_of(client, name, CHAMPION)
    if champion != version:
        if champion is not None:
            hold(client, name, token)
            registry.set_alias(client, name, PREVIOUS, champion)
        hold(client, name, token)
        registry.set_alias(client, name, CHAMPION, version)
    remove_challenger(client, name, version, token)


def remove_challenger(client: MlflowClient, name: str, version: int, token: str | None) -> None:
    """Who is champion challenges nobody."""
    if registry.version_of(client, name, CHALLENGER) == version:
        hold(client, name, token)
        registry.remove_alias(client, name, CHALLENGER)


def return_to_previous(client: MlflowClient, name: str, token: str, request: str) -> int:
    """Make the previous champion champion again; returns its version.

    Args:
        client: of the tracking server.
        name: of the registered model.
        token: of this promotion.
        request: the flow run that asks; asked again by it, after a death, nothing more is rolled back.

    Raises:
        InputError: if there is none.
    """
    champion = registry.version_of(client, name, CHAMPION)
    previous = registry.version_of(client, name, PREVIOUS)
    if previous is None:
        if champion and registry.get_version(client, name, champion).tags.get(ROLLBACK_TAG) == request:
            return champion
        raise InputError(f"{name} has no previous champion to return to; promote another version instead")
    if champion is not None and champion != previous:
        hold(client, name, token)
        registry.set_tags(client, name, champion, {"gate": f"rolled back to version {previous}"})
    hold(client, name, token)
    registry.set_tags(client, name, previous, {ROLLBACK_TAG: request})
    hold(client, name, token)
    registry.set_alias(client, name, CHAMPION, previous)
    hold(client, name, token)
    registry.remove_alias(client, name, PREVIOUS)
    return previous


@contextmanager
def promotion(client: MlflowClient, name: str) -> Iterator[str]:
    """One promotion of a model at a time, wherever it runs: aliases have no compare-and-set.

    The lock of a process that died is free again after a minute; one that was only held up meanwhile finds, by the
    token this yields, that another has begun (`hold`).
    """
    with promotion_lock(name):
        yield begin_promotion(client, name)


def begin_promotion(client: MlflowClient, name: str) -> str:
    """Overtake every promotion that has begun before. Returns the token of this one."""
    token = secrets.token_hex(8)
    client.set_registered_model_tag(name, PROMOTION_TAG, token)
    return token


def hold(client: MlflowClient, name: str, token: str | None) -> None:
    """Before each write of a promotion: that no other has begun.

    Args:
        client: of the registry.
        name: of the registered model.
        token: of the promotion; None for that of the champion itself, which moves nothing.

    Raises:
        OvertakenError: if one has.
    """
    if token is None:
        return
    newest = client.get_registered_model(name).tags.get(PROMOTION_TAG)
    if newest != token:
        raise OvertakenError(
            f"promotion {token} of {name} was overtaken by promotion {newest} while it was held up; it stops here and "
            "moves nothing more: promote the version again if the other did not"
        )


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """One promotion of a model at a time: wherever it runs under Prefect, and on this machine without."""
    if flow_run_id():
        with _prefect_lock(f"promote-{name}"):
            yield
    else:
        with machine_lock(mlflow.get_registry_uri(), name):
            yield


@contextmanager
def _prefect_lock(limit: str) -> Iterator[None]:
    """A slot of a limit in Prefect; a promotion that outlives its lease, as Prefect is away, is fenced by its token."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    # Another promotion may just have created it.
    with get_client(sync_client=True) as prefect, suppress(ObjectAlreadyExists):
        prefect.upsert_global_concurrency_limit_by_name(limit, limit=1)
    slot = concurrency(
        limit, occupy=1, strict=True, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False
    )
    slot.__enter__()
    try:
        yield
    finally:
        try:
            slot.__exit__(None, None, None)
        except Exception as error:  # what was promoted is
            logger.warning("%s was not given back (%s): Prefect frees it within a minute", limit, one_line(error))


def _read_champion(client: MlflowClient, run_id: str, version: int) -> dict[str, Any]:
    file = _champion_file(version)
    if all(found.path != file for found in client.list_artifacts(run_id, file.rpartition("/")[0])):
        return {}
    content: dict[str, Any] = mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/{file}")
    return content


def _champion_file(version: int) -> str:
    return f"evaluation/version-{version}-champion.json"


def _announce(name: str, version: int, gate: str) -> None:
    """Tell Prefect's automations, where there are any."""
    if not flow_run_id():
        return
    from prefect.events import emit_event

    emit_event(
        "dqn.policy.promoted",
        resource={"prefect.resource.id": f"mlflow.model.{name}", "prefect.resource.name": name},
        payload={"model": name, "version": version, "uri": f"models:/{name}@{CHAMPION}", "reason": gate},
    )
