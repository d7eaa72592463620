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
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow import MlflowClient

from dqn.robustness import StressTest
from dqn.world import World
from flows import registry
from flows.attempt import Attempt, StaleAttemptError, fenced
from flows.evaluation import SEED_TAG, play, read_stress, require_playable, threshold_of, under_stress
from flows.flow_run import flow_run_id
from flows.gate import Champion, Decision, should_promote
from flows.parameters import InputError
from flows.registry import CHALLENGER, CHAMPION, DIGEST_TAG, PREVIOUS, RegistryError
from flows.stage import stage
from flows.stages import Returns, read_returns
from flows.tracking import connect
from serving.policy import PolicyMetadata

PROMOTION_TAG: Final = "promotion"
ROLLBACK_TAG: Final = "rollback"
"""Of a version that was returned to: the flow run that asked for it."""
_LEASE_SECONDS: Final = 60.0
"""After which the lock of a promotion that died is free again; Prefect takes no less."""


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
    with promotion(client, name) as token:
        champion = registry.version_of(client, name, CHAMPION)
        gate = registry.get_version(client, name, version).tags.get("gate", "")
        if champion == version and gate.startswith(("passed", "forced")):  # by an attempt that died right after it
            remove_challenger(client, name, version, token)
            return gate
        stress = read_stress(evaluation)
        rival = play_rival(client, name, version, champion, world, stressed=stress is not None)
        decision = decide(client, name, version, rival, read_returns(evaluation), stress, at_home=world is not None)
        gate = f"forced: the gate said {decision.gate}" if force else decision.gate
        gate += f" (in the world {World.from_dict(world)})" if world is not None else ""
        hold(client, name, token)
        registry.set_tags(fenced(client, attempt), name, version, {"gate": gate})
        if decision.promote or force:
            move_champion(fenced(client, attempt), name, version, token)
    if rival and rival.stress:
        run_id = str(registry.get_version(client, name, version).run_id)
        content = {"version": rival.version, "stress": rival.stress.to_dict()}
        fenced(client, attempt).log_dict(run_id, content, _champion_file(version))
    if decision.promote or force:
        _announce(name, version, gate)
    return gate


def read_champion_stress(client: MlflowClient, run_id: str, version: int) -> dict[str, StressTest]:
    """What the champion that a version was held against withstood in the same episodes, by its name; or nothing."""
    file = _champion_file(version)
    if all(found.path != file for found in client.list_artifacts(run_id, file.rpartition("/")[0])):
        return {}
    content = mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/{file}")
    return {f"champion, version {content['version']}": StressTest.from_dict(content["stress"])}


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
    return play_champion(name, champion, challenger, seed=seed, stressed=stressed)


def decide(
    client: MlflowClient,
    name: str,
    version: int,
    rival: Champion | None,
    returns: Returns,
    stress: StressTest | None,
    at_home: bool,
) -> Decision:
    """Hold what a version returned `[N]` and withstood against the environment's threshold and the champion."""
    tags = registry.get_version(client, name, version).tags
    challenger = registry.download(name, version)
    if challenger.sha256 != tags[DIGEST_TAG]:
        return Decision(promote=False, reason=f"the file of {challenger} is not the one that was evaluated any more")
    return should_promote(returns, threshold_of(challenger.policy.metadata.env_id), rival, stress, at_home)


def play_champion(name: str, version: int, challenger: PolicyMetadata, *, seed: int, stressed: bool) -> Champion:
    """The champion on the challenger's episodes, in the challenger's world.

    One whose file is gone or broken is no obstacle: the store has just handed out the challenger's.
    """
    try:
        artifact = registry.download(name, version)
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


def remove_challenger(client: MlflowClient, name: str, version: int, token: str) -> None:
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
        token = secrets.token_hex(8)
        client.set_registered_model_tag(name, PROMOTION_TAG, token)
        yield token


def hold(client: MlflowClient, name: str, token: str) -> None:
    """Before each write of a promotion: that no other has begun.

    Raises:
        StaleAttemptError: if one has.
    """
    newest = client.get_registered_model(name).tags.get(PROMOTION_TAG)
    if newest != token:
        raise StaleAttemptError(
            f"promotion {token} of {name} was overtaken by promotion {newest} while it was held up; it stops here and "
            "changes nothing more"
        )


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """One promotion of a model at a time: wherever it runs under Prefect, and on this machine without."""
    if not flow_run_id():
        with _machine_lock(f"{mlflow.get_tracking_uri()} {name}"):
            yield
        return
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    limit = f"promote-{name}"
    # Another promotion may just have created it.
    with get_client(sync_client=True) as prefect, suppress(ObjectAlreadyExists):
        prefect.upsert_global_concurrency_limit_by_name(limit, limit=1)
    with concurrency(limit, occupy=1, strict=True, lease_duration=_LEASE_SECONDS):
        yield


@contextmanager
def _machine_lock(what: str) -> Iterator[None]:
    """A lock of this user on this machine; the kernel lets go of it when its process ends."""
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"dqn-promote-{os.getuid()}-{digest}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
