"""Creates environments in worlds, for training, evaluation, benchmarks and serving. Torch-free."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv

from dqn.environments.cartpole import CARTPOLES
from dqn.environments.masks import ACTION_MASK
from dqn.environments.spaces import Flat, must_be_flattened
from dqn.environments.spec import (
    GYMNASIUMS,
    Environment,
    EnvironmentUnsupportedError,
    environment_spec,
    has_own_vector,
    unsupported,
)
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import FromZero, WorldEnv, WorldVectorEnv, is_in_arrays


def make(environment: str | Environment, world: World = NOMINAL, *, render_mode: str | None = None) -> "WorldEnv":
    """Make a single environment in a world.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or cannot have this world.
    """
    drawn: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment accepts it
    with _refusing(environment):
        return _in_world(_single(environment_spec(environment), **drawn), world)


def make_vec(
    environment: str | Environment,
    world: World | Sequence[World] = NOMINAL,
    *,
    num_envs: int,
    max_episode_steps: int | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment, with next-step autoreset.

    The environment's own vector implementation is used if its state is in arrays and it equals the single environment
    (`has_own_vector`); for CartPole without keyword arguments it is replaced by `CartPoles`, which computes the same
    numbers. Otherwise single environments run in Gymnasium's SyncVectorEnv. Actions count from 0, as in `make`.

    Args:
        environment: a Gymnasium environment with a time limit.
        world: the world of the episodes; for several worlds see `WorldVectorEnv`.
        num_envs: number of sub-environments per world, in consecutive rows.
        max_episode_steps: replaces the time limit.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or cannot have this world.
    """
    worlds = (world,) if isinstance(world, World) else tuple(world)
    spec = environment_spec(environment)
    if max_episode_steps is not None:
        spec = dataclasses.replace(spec, max_episode_steps=max_episode_steps)
    with _refusing(environment):
        if has_own_vector(spec):
            if spec.vector_entry_point == GYMNASIUMS and not spec.kwargs:
                spec = dataclasses.replace(spec, vector_entry_point=CARTPOLES)
            envs = gym.make_vec(spec, num_envs=num_envs * len(worlds), vectorization_mode="vector_entry_point")
            if worlds == (NOMINAL,) and is_in_arrays(envs):
                return envs
            if isinstance(envs, CartPoleVectorEnv):
                return _in_worlds(envs, worlds)
            envs.close()
        made: list[gym.Env[Any, Any]] = []
        try:
            for each in np.repeat(np.arange(len(worlds)), num_envs):
                # Gymnasium's checker of single environments would halve the speed.
                env = _single(spec, disable_env_checker=True)
                made.append(env if worlds == (NOMINAL,) else _in_world(env, worlds[each]))
            return side_by_side(made, np.zeros(len(made), dtype=np.bool_))
        except BaseException:
            for env in made:
                env.close()
            raise


def has_action_mask(environment: str | Environment, world: World = NOMINAL) -> bool:
    """Whether an environment's `reset` returns an action mask.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or cannot have this world.
    """
    with closing(make_vec(environment, world, num_envs=1)) as envs:
        _, info = envs.reset(seed=0)
        return ACTION_MASK in info


def side_by_side(envs: Sequence[gym.Env[Any, Any]], autoreset: npt.NDArray[np.bool_]) -> SyncVectorEnv:
    """A vector environment of environments in mid-episode; `autoreset` `[N]` marks those that have just ended."""
    together = SyncVectorEnv([partial(_itself, env) for env in envs])
    together._autoreset_envs = autoreset
    return together


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


@contextmanager
def _refusing(environment: str | Environment) -> Iterator[None]:
    """Turn any failure to make an environment into an EnvironmentUnsupportedError."""
    try:
        yield
    except (EnvironmentUnsupportedError, MemoryError):
        raise
    except Exception as error:  # the environment's own code may raise anything
        raise unsupported(Environment.of(environment).env_id, error) from error


def _single(spec: EnvSpec, **drawn: Any) -> gym.Env[Any, Any]:
    """The registered environment, with actions from 0 and observations of a shape."""
    if spec.entry_point is None and spec.vector_entry_point is not None:
        raise EnvironmentUnsupportedError(
            f"environment {spec.id!r} has a vector implementation alone, which can neither be played one at a time nor "
            "be narrowed to some of its sub-environments: register its single environment too, as entry_point="
        )
    env: gym.Env[Any, Any] = gym.make(spec, **drawn)
    if must_be_flattened(env.observation_space):
        env = Flat(env)
    return FromZero(env) if int(getattr(env.action_space, "start", 0)) else env


def _in_world(env: gym.Env[Any, Any], world: World) -> "WorldEnv":
    try:
        return WorldEnv(env, world)
    except BaseException:
        env.close()
        raise


def _in_worlds(envs: CartPoleVectorEnv, worlds: Sequence[World]) -> "WorldVectorEnv":
    try:
        return WorldVectorEnv(envs, *worlds)
    except BaseException:
        envs.close()
        raise
