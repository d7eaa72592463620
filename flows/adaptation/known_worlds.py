"""Registered versions of similar worlds: one of them may solve a world without a new training."""

import json
import logging
import math
from typing import Any, Final

from mlflow import MlflowClient

from dqn.environments.world import World, WorldError
from dqn.identification.identify import ENVIRONMENTS
from dqn.identification.trajectories import SCALES, values_of
from dqn.seeding import SELECTION, stream_seed
from flows.adaptation import beyond_cartpole
from flows.adaptation.timeline import Adaptation
from flows.failures.errors import RegistryError
from flows.names import environment_of
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.evaluation import play, require_playable, threshold_of
from flows.registry.history import RETIRED_TAG
from flows.registry.versions import WORLD_TAG
from flows.tracking.attempt import Attempt
from flows.tracking.store import connect

TRIED: Final = 5
"""Number of versions that are played, the nearest first."""

logger = logging.getLogger(__name__)


def distance(one: World, other: World) -> float:
    """Distance of two worlds, in units of a relevant change (`SCALES`). A range counts by its middle."""
    first, second = values_of(one), values_of(other)
    squares = [((first[name] - second[name]) / scale) ** 2 for name, scale in SCALES.items()]
    delays = [_middle(world.action_delay) for world in (one, other)]
    return math.sqrt(sum(squares) + (delays[0] - delays[1]) ** 2)


def near_versions(client: MlflowClient, name: str, world: World) -> list[int]:
    """Versions that were evaluated in a world of their own: the nearest first, then the newest.

    A version that was rolled back or retired is none of them. Neither is a refused bank: it plays as its champion does,
    which is tried too.
    """
    found = []
    apart = distance if environment_of(name) in ENVIRONMENTS else beyond_cartpole.distance
    for version in client.search_model_versions(f"name='{name}'"):
        tags = version.tags
        if WORLD_TAG not in tags or "eval.mean_return" not in tags or RETIRED_TAG in tags:
            continue
        left_out = ("rolled back", "refused") if versions.BANKED_TAG in tags else "rolled back"
        if tags.get("gate", "").startswith(left_out):
            continue
        try:
            home = World.from_dict(json.loads(tags[WORLD_TAG]))
        except (json.JSONDecodeError, WorldError) as error:
            logger.warning("version %s of %s has no world to compare (%s)", version.version, name, error)
            continue
        found.append((apart(home, world), -int(version.version)))
    return [-negative for _, negative in sorted(found)[:TRIED]]


def passing_version(client: MlflowClient, name: str, env_id: str, world: World, *, seed: int) -> tuple[int | None, str]:
    """The nearest version that solves a world, if any does, and a sentence about the versions that were tried."""
    threshold, tried = threshold_of(env_id), []
    for version in near_versions(client, name, world):
        try:
            artifact = versions.download(name, version)
            require_playable(artifact, env_id)
        except RegistryError as error:
            tried.append(f"version {version} cannot be played")
            logger.warning("version %d is not tried: %s", version, error)
            continue
        mean = float(play(artifact.policy, world, seed=stream_seed(seed, SELECTION, version)).mean())
        tried.append(f"version {version} ({artifact.policy.metadata.world}) returns {mean:.0f}")
        if threshold is not None and mean >= threshold:
            return version, "; ".join(tried)
    return None, "; ".join(tried) or "no version has a world of its own"


def _middle(value: Any) -> float:
    return sum(value) / 2 if isinstance(value, tuple) else float(value)


def remembered(adaptation: Adaptation, model: str, env_id: str, world: dict[str, Any]) -> int | None:
    """A registered version that solves the world, if any does."""
    version, tried = remember(model, env_id, world, adaptation.attempt)
    adaptation.tell("memory", tried if version is None else f"version {version} solves this world: {tried}")
    return version


@step("remember")
def remember(model: str, env_id: str, world: dict[str, Any], attempt: Attempt) -> tuple[int | None, str]:
    """Play the versions of similar worlds. Returns the one that solves this world, if any, and what was tried."""
    seed = int(attempt.run_id[:8], 16)
    return passing_version(connect(), model, env_id, World.from_dict(world), seed=seed)
