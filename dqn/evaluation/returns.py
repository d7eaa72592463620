"""Episodic returns of any policy in any world. Torch-free."""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dqn.environments.making import make_vec
from dqn.environments.masks import action_masks, refuse_uneven
from dqn.environments.spec import Environment, environment_spec
from dqn.environments.world import NOMINAL, World
from dqn.finite import require_finite

Act = Callable[..., npt.NDArray[np.integer]]
"""Maps observations `[N, obs]`, float32, to actions `[N]`; in an environment with action masks it is called with the
masks `[N, actions]`, bool, as a second argument."""


def episodic_returns(
    act: Act,
    environment: str | Environment,
    world: World | Sequence[World] = NOMINAL,
    *,
    num_episodes: int,
    seed: int,
    max_episode_steps: int | None = None,
) -> npt.NDArray[np.float64]:
    """Undiscounted returns `[num_episodes]` of episodes played in parallel.

    Args:
        act: the policy, for N = num_episodes.
        environment: a Gymnasium environment with a time limit.
        world: the world of the episodes, or W worlds with num_episodes / W consecutive episodes each.
        num_episodes: number of sub-environments; the first episode of each counts.
        seed: determines every initial state and every random transition.
        max_episode_steps: replaces the environment's time limit.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, has no time limit or cannot have this world.
        EnvironmentFaultError: if an observation or a reward is not finite, or an action mask is invalid.
    """
    each = num_episodes if isinstance(world, World) else num_episodes // len(world)
    envs = make_vec(environment, world, num_envs=each, max_episode_steps=max_episode_steps)
    env_id = Environment.of(environment).env_id
    limit = max_episode_steps or environment_spec(environment).max_episode_steps
    assert limit is not None, "environment_spec requires a limit"
    returns = np.zeros(num_episodes)
    finished = np.zeros(num_episodes, dtype=np.bool_)
    with closing(envs):
        masks = partial(action_masks, env_id=env_id, num_actions=int(cast("Any", envs.single_action_space).n))
        observation, info = envs.reset(seed=seed)
        require_finite("observation", observation, env_id, step=0)
        mask = masks(info, terminated=finished, step=0)
        for step in range(1, limit + 1):  # a vector implementation may not apply the limit
            given = np.asarray(observation, dtype=np.float32)
            action = act(given) if mask is None else act(given, mask)
            try:
                observation, reward, terminated, truncated, info = envs.step(action)
            except ValueError as error:
                refuse_uneven(error, env_id, masked=mask is not None, step=step)
                raise
            require_finite("observation", observation, env_id, step=step)
            require_finite("reward", reward, env_id, step=step)
            mask = masks(info, terminated=terminated, step=step, masked=mask is not None)
            returns += np.where(finished, 0.0, reward)
            finished |= terminated | truncated
            if finished.all():
                break
    return returns
