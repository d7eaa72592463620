"""The champion, the version that is served: promotion through the gate."""

import dataclasses
import logging
from typing import Any, Final

from mlflow import MlflowClient

from dqn.environments.world import World
from dqn.identification.identify import ENVIRONMENTS
from dqn.stress.robustness import StressTest
from flows.failures.errors import RegistryError
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.evaluation import (
    Played,
    play,
    play_on,
    read_played,
    require_playable,
    threshold_of,
    under_stress,
)
from flows.registry.gate import Champion, Decision, should_promote
from flows.registry.gate_tag import is_decided, not_promoted_if_ended, undecided_if_ended
from flows.registry.history import PROMOTED_TAG, add_champion, signed
from flows.registry.lock import begin_promotion, hold, promotion_lock
from flows.registry.versions import CHALLENGER, CHAMPION, DIGEST_TAG, PREVIOUS, Artifact
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.runs import has_artifact, read_artifact
from flows.tracking.store import connect
from serving.policy import PolicyMetadata

MARGIN_USED_TAG: Final = "gate.margin_used"
"""Tag of a version that was promoted without being better: `Champion.margin_used`."""

logger = logging.getLogger(__name__)


@step("promote")
def promote(
    name: str,
    version: int,
    evaluation: str,
    attempt: Attempt | None = None,
    force: bool = False,
    world: dict[str, Any] | None = None,
) -> str:
    """Decide on an evaluated version by the gate, and promote it if it passes. Returns its gate tag.

    Args:
        name: of the registered model.
        version: the challenger.
        evaluation: the artifact of `evaluate`.
        attempt: the attempt that writes; None if a person promotes.
        force: promote it whatever the gate decides, for a person's request.
        world: the world that both are tested in; None for the challenger's own.
    """
    client = connect()
    fenced = FencedClient(client=client, attempt=attempt)
    with undecided_if_ended(fenced, name, version), promotion_lock(name):
        if attempt and world is None and (carried_out := _carried_out(client, name, version)):
            return carried_out
        token, champion = None, versions.version_of(client, name, CHAMPION)
        if champion != version:  # promoting the champion changes no alias, and overtakes no other promotion
            token = begin_promotion(client, name)
            champion = versions.version_of(client, name, CHAMPION)  # again: the token is set now
        tags = _tags(client, name, version)
        gate = tags.get("gate", "")
        if champion == version and gate.startswith(("passed", "forced")):  # an earlier attempt promoted it and died
            remove_challenger(client, name, version, token)
            return gate
        mine, challenger = read_played(evaluation), versions.download(name, version)
        rival = play_rival(client, challenger, champion, mine.seed, world, stressed=mine.stress is not None)
        decision = decide(challenger, tags[DIGEST_TAG], rival, mine, world)
        gate = f"forced: the gate said {decision.gate}" if force else decision.gate
        gate += f" (in the world {World.from_dict(world)})" if world is not None else ""
        if rival and rival.returns is not None:  # before the gate tag, so that a decided version has it
            content = {
                "version": rival.version,
                "stress": rival.stress and rival.stress.to_dict(),
                "comparison": decision.comparison and decision.comparison.to_dict(),
            }
            run_id = str(versions.get_version(client, name, version).run_id)
            fenced.checked().log_dict(run_id, content, _champion_file(version))
        hold(client, name, token)
        versions.set_tags(fenced.checked(), name, version, {"gate": gate})
        if decision.margin_used:
            hold(client, name, token)
            used = {MARGIN_USED_TAG: f"{decision.margin_used:.3f}"}
            versions.set_tags(fenced.checked(), name, version, used)
        if token is None:
            remove_challenger(fenced.checked(), name, version, token)
        elif decision.promote or force:
            with not_promoted_if_ended(fenced, name, version, gate):
                move_champion(fenced.checked(), name, version, token)
    if token and (decision.promote or force):
        _announce(name, version, gate)
    return gate


def _carried_out(client: MlflowClient, name: str, version: int) -> str | None:
    """The gate tag of a version whose promotion is over; None if its training, when resumed, has to promote it.

    A version that passed keeps the alias `challenger` until the promotion is complete. Later another version, or a
    person, may have replaced it as champion.
    """
    gate = _tags(client, name, version).get("gate", "")
    complete = not gate.startswith("passed") or versions.version_of(client, name, CHALLENGER) != version
    return gate if is_decided(gate) and complete else None


def read_champion_stress(client: MlflowClient, run_id: str, version: int) -> dict[str, StressTest]:
    """Stress test of the champion that a version was compared with, in the same episodes, by name; or nothing."""
    content = _read_champion(client, run_id, version)
    if not content.get("stress"):
        return {}
    return {f"champion, version {content['version']}": StressTest.from_dict(content["stress"])}


def read_comparison(client: MlflowClient, run_id: str, version: int) -> dict[str, Any]:
    """`Comparison.to_dict` of a version and the champion that it was compared with; or nothing."""
    return _read_champion(client, run_id, version).get("comparison") or {}


def play_rival(
    client: MlflowClient,
    challenger: Artifact,
    champion: int | None,
    seed: int,
    world: dict[str, Any] | None = None,
    *,
    stressed: bool = True,
) -> Champion | None:
    """Play the champion on the episodes of a version. None if there is no champion, or the version is champion."""
    if champion is None or champion == challenger.version:
        return None
    metadata = challenger.policy.metadata
    if world is not None:
        metadata = dataclasses.replace(metadata, world=World.from_dict(world))
    rival = play_champion(challenger.name, champion, metadata, seed=seed, stressed=stressed)
    used = _tags(client, challenger.name, champion).get(MARGIN_USED_TAG, "0")
    return dataclasses.replace(rival, margin_used=float(used))


def decide(
    challenger: Artifact,
    sha256: str,
    rival: Champion | None,
    mine: Played,
    world: dict[str, Any] | None,
) -> Decision:
    """Compare what a version did on its episodes with the environment's threshold and the champion.

    Both play further episodes as long as the gate asks for them. `sha256` is of the file that was evaluated. A version
    with a bank is preferable to a champion without one, and refused if a member is below the threshold in its world.
    """
    if challenger.sha256 != sha256:
        reason = f"the file of {challenger} is not the one that was evaluated any more"
        return Decision(promote=False, outcome="invalid", reason=reason)
    policy = challenger.policy
    if len(mine.members) != len(policy.metadata.members):
        reason = f"{len(mine.members)} of the bank's {len(policy.metadata.members)} members were evaluated"
        return Decision(promote=False, outcome="invalid", reason=reason)
    at_home = world is not None
    # A threshold is of the nominal world. CartPole's is a full episode, which is one in every world.
    threshold = (
        None if world and policy.metadata.env_id not in ENVIRONMENTS else threshold_of(policy.metadata.environment)
    )
    returns, stress = mine.returns, mine.stress
    if weak := [mean for mean in mine.members if threshold is not None and not mean >= threshold]:
        reason = f"a member of the bank returns {weak[0]:g} in its own world, below the threshold {threshold:g}"
        return Decision(promote=False, outcome="alone", reason=reason)
    offers = f"has a bank of {len(mine.members)} members" if mine.members and not (rival and rival.has_bank) else ""
    played = policy.metadata.world if world is None else World.from_dict(world)
    decision = should_promote(returns, threshold, rival, stress, at_home, offers)
    while decision.episodes and rival and rival.returns is not None:
        more: dict[str, Any] = {
            "version": challenger.version,
            "episodes": decision.episodes,
            "environment": policy.metadata.environment,
        }
        champion = versions.download(challenger.name, rival.version).policy
        returns = play_on(policy, played, returns, **more)
        rival = dataclasses.replace(rival, returns=play_on(champion, played, rival.returns, **more))
        decision = should_promote(returns, threshold, rival, stress, at_home, offers)
    return decision


def play_champion(name: str, version: int, challenger: PolicyMetadata, *, seed: int, stressed: bool) -> Champion:
    """Play the champion on the challenger's episodes, in the challenger's environment and world.

    A champion with a missing or damaged file can be replaced: the store works, as it has just returned the
    challenger's file. A champion of another environment cannot: it works, and clients use it.
    """
    try:
        artifact = versions.download(name, version)
        env_id = artifact.policy.metadata.env_id
        if env_id != challenger.env_id:
            return Champion(version=version, returns=None, other_env_id=env_id)
        require_playable(artifact, challenger.environment)
    except RegistryError as error:
        return Champion(version=version, returns=None, fault=str(error))
    return Champion(
        version=version,
        returns=play(artifact.policy, challenger.world, seed=seed, environment=challenger.environment),
        stress=under_stress(artifact.policy, challenger.world, seed=seed) if stressed else None,
        has_bank=bool(artifact.policy.metadata.members),
    )


def move_champion(client: MlflowClient, name: str, version: int, token: str) -> None:
    """Make a version champion, and the champion before it `previous`. A repetition after a failure ends the same."""
    champion = versions.version_of(client, name, CHAMPION)
    if champion != version:
        add_champion(client, name, version, champion, token)
        if champion is not None:
            hold(client, name, token)
            versions.set_alias(client, name, PREVIOUS, champion)
        hold(client, name, token)
        versions.set_tags(client, name, version, {PROMOTED_TAG: signed()})
        hold(client, name, token)
        versions.set_alias(client, name, CHAMPION, version)
    remove_challenger(client, name, version, token)


def remove_challenger(client: MlflowClient, name: str, version: int, token: str | None) -> None:
    """Remove the alias `challenger` from a version that is champion."""
    if versions.version_of(client, name, CHALLENGER) == version:
        hold(client, name, token)
        versions.remove_alias(client, name, CHALLENGER)


def _read_champion(client: MlflowClient, run_id: str, version: int) -> dict[str, Any]:
    file = _champion_file(version)
    return dict(read_artifact(client, run_id, file)) if has_artifact(client, run_id, file) else {}


def _tags(client: MlflowClient, name: str, version: int) -> dict[str, str]:
    return dict(versions.get_version(client, name, version).tags)


def _champion_file(version: int) -> str:
    return f"evaluation/version-{version}-champion.json"


def _announce(name: str, version: int, gate: str) -> None:
    """Emit an event for Prefect's automations, within a flow run."""
    if not flow_run_id():
        return
    from prefect.events import emit_event

    emit_event(
        "dqn.policy.promoted",
        resource={"prefect.resource.id": f"mlflow.model.{name}", "prefect.resource.name": name},
        payload={"model": name, "version": version, "uri": f"models:/{name}@{CHAMPION}", "reason": gate},
    )
