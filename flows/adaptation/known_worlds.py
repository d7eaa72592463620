"""Registered versions whose world is near another: who has learned to live there need not learn it again."""

import json
import logging
import math
from typing import Any, Final

from mlflow import MlflowClient

from dqn.environments.world import World, WorldError
from dqn.identification.identify import values_of
from dqn.identification.trajectories import SCALES
from dqn.seeding import SELECTION, stream_seed
from flows.adaptation.timeline import Adaptation
from flows.errors import RegistryError
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.evaluation import play, require_playable, threshold_of
from flows.registry.versions import WORLD_TAG
from flows.tracking.attempt import Attempt
from flows.tracking.store import connect

TRIED: Final = 5
"""Versions that are played, the nearest first."""

logger = logging.getLogger(__name__)


def distance(one: World, other: World) -> float:
    """How far apart two worlds are, in changes that matter; of a range the middle counts."""
    first, second = values_of(one), values_of(other)
    squares = [((first[name] - second[name]) / scale) ** 2 for name, scale in SCALES.items()]
    delays = [_middle(world.action_delay) for world in (one, other)]
    return math.sqrt(sum(squares) + (delays[0] - delays[1]) ** 2)


def near_versions(client: MlflowClient, name: str, world: World) -> list[int]:
    """Versions tested in a world of their own and not rolled back: the nearest first, of equally near the newest."""
    found = []
    for version in client.search_model_versions(f"name='{name}'"):
        tags = version.tags
        if WORLD_TAG not in tags or "eval.mean_return" not in tags or tags.get("gate", "").startswith("rolled back"):
            continue
        try:
            home = World.from_dict(json.loads(tags[WORLD_TAG]))
        except (json.JSONDecodeError, WorldError) as error:
            logger.warning("version %s of %s has no world to compare (%s)", version.version, name, error)
            continue
        found.append((distance(home, world), -int(version.version)))
    return [-negative for _, negative in sorted(found)[:TRIED]]


def passing_version(client: MlflowClient, name: str, env_id: str, world: World, *, seed: int) -> tuple[int | None, str]:
    """The nearest version that holds a world, if one does, and what was tried, in words."""
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
    return None, "; ".join(tried) or "no version knows a world"


def _middle(value: Any) -> float:
    return sum(value) / 2 if isinstance(value, tuple) else float(value)


def remembered(adaptation: Adaptation, model: str, env_id: str, world: dict[str, Any]) -> int | None:
    """A registered version that holds the world, if one does."""
    version, tried = remember(model, env_id, world, adaptation.attempt)
    adaptation.tell("memory", tried if version is None else f"version {version} holds this world: {tried}")
    return version


@step("remember")
def remember(model: str, env_id: str, world: dict[str, Any], attempt: Attempt) -> tuple[int | None, str]:
    """Play the versions whose world is near. Returns the one that holds this world, if any, and what was tried."""
    seed = int(attempt.run_id[:8], 16)
    return passing_version(connect(), model, env_id, World.from_dict(world), seed=seed)
