"""Adaptation where no equations of motion are known: Acrobot and MountainCar.

The environment's own step is fitted to the observed transitions, and training continues from the champion's network.
"""

import dataclasses
import math
from typing import Any, Final, Literal

import numpy as np
from mlflow import MlflowClient

from dqn.config import DQNConfig
from dqn.environments.world import NOMINAL, World
from dqn.identification import by_step
from dqn.identification.record import UnexplainedError
from dqn.presets import PRESETS, PresetName
from flows.failures.errors import one_line
from flows.registry import versions
from flows.registry.returns import Returns
from flows.tracking.runs import read_config
from flows.training.warm_start import WARM_START_TAG, find_version

NUM_AGENTS: Final = 4
SHARE: Final = 4
"""The updates of the champion's training are divided by this: the network that is started from can play already."""
FEW: Final = 3
MANY: Final = 8
"""Episodes after which a promoted version may be good enough, and after which it is given up if it is not."""
WATCHED_SECONDS: Final = 180.0
"""Acrobot plays 15 steps a second."""


def identify_from(answer: dict[str, Any]) -> dict[str, Any]:
    """The changed world and a sentence about it, from the server's answer with transitions.

    Raises:
        UnexplainedError: if no world explains them, or they are no transitions.
    """
    columns = answer["transitions"]
    try:
        observed, arrived = (np.array(columns[name], float) for name in ("observation", "next_observation"))
        actions = np.array(columns["action"], dtype=np.int64)
        if not observed.ndim == 2 or observed.shape != arrived.shape or len(observed) != len(actions):
            raise ValueError("its columns do not belong together")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnexplainedError(f"the experience is not a table of transitions: {one_line(error)}") from error
    known = World.from_dict(answer["world"])
    world = by_step.identify_by_step(answer["env_id"], known, observed, actions, arrived)
    return {"world": world.to_dict(), "text": f"{world}: by the environment's own step", "refusal": ""}


def distance(one: World, other: World) -> float:
    """Distance of two worlds: of each field or attribute the logarithm of the ratio, or 1 if one world has none."""
    first, second = one.flat(), other.flat()
    names = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    return math.sqrt(sum(_between(first.get(name), second.get(name)) ** 2 for name in names))


def _between(one: Any, other: Any) -> float:
    numbers = isinstance(one, float) and isinstance(other, float) and one * other > 0
    return min(abs(math.log(one / other)), 1.0) if numbers else 1.0


def warm(client: MlflowClient, env_id: str, version: int, world: World) -> tuple[DQNConfig, PresetName, dict[str, str]]:
    """What to train in a world from a version's network: the version's own configuration, with a part of its updates.

    Returns:
        Configuration, name of the environment's preset, and the tags that name the version to start from.

    Raises:
        InputError: if the version was not trained here, so that there is no network to start from.
    """
    name = versions.model_name(env_id)
    source = read_config(client, str(versions.get_version(client, name, version).run_id))
    config = warm_config(source, world, seed=version)
    preset = next(preset for preset, tuned in PRESETS.items() if tuned.env_id == env_id)
    return config, preset, {WARM_START_TAG: str(find_version(client, config, str(version)))}


def warm_config(source: DQNConfig, world: World, *, seed: int) -> DQNConfig:
    """The configuration of a training that continues one in another world."""
    updates = max(source.max_updates // SHARE, 1)
    return dataclasses.replace(
        source,
        seed=seed,
        num_agents=NUM_AGENTS,
        max_updates=updates,
        world=world,
        randomisation=NOMINAL,
        epsilon_start=max(source.epsilon_end, 0.2),
        epsilon_decay_updates=max(updates // 4, 1),
        epsilon_decay_per_episode=0.0,
        learning_rate_decay_updates=updates if source.learning_rate_decay_updates else 0,
        eval_start=updates // 2,
        eval_interval=max(updates // 6, 1),
        eval_episodes=min(source.eval_episodes, 40),
        acceptance_epsilon=0.0,
    )


def verdict(returns: list[float], expected: Returns) -> Literal["recovered", "fell", "unsure"]:
    """Whether a version returns in the show what it returned at the gate.

    Args:
        returns: of the episodes since its promotion.
        expected: `[N]`, its returns at the gate, in the identified world.
    """
    if len(returns) >= FEW:
        lowest = expected.mean() - 3 * expected.std() / math.sqrt(len(returns))
        if np.mean(returns) >= lowest - 0.02 * abs(expected.mean()):
            return "recovered"
    return "fell" if len(returns) >= MANY else "unsure"
