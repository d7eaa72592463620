"""Environments in a world: made here alone, for training, evaluation, benchmarks and the server. Torch-free."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv

from dqn.environments.cartpole import CARTPOLES
from dqn.environments.spec import GYMNASIUMS, EnvironmentUnsupportedError, environment_spec, has_own_vector, unsupported
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import FromZero, WorldEnv, WorldVectorEnv, is_in_arrays


def make(env_id: str, world: World = NOMINAL, *, render_mode: str | None = None) -> "WorldEnv":
    """A single environment in a world.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, or cannot be what the world says.
    """
    drawn: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment takes it
    with _refusing(env_id):
        return _in_world(_single(environment_spec(env_id), **drawn), world)


def make_vec(
    env_id: str, world: World | Sequence[World] = NOMINAL, *, num_envs: int, max_episode_steps: int | None = None
) -> VectorEnv[Any, Any, Any]:
    """As many environments in a world, side by side, which reset an ended episode at the next step.

    The environment's own vector implementation is used where it is in arrays and the same as the single environment
    (`has_own_vector`), single ones in Gymnasium's SyncVectorEnv otherwise; of CartPole without keywords it is
    `CartPoles`, which gives Gymnasium's numbers. Actions count from 0, as in `make`.

    Args:
        env_id: a registered Gymnasium environment with a time limit.
        world: what the episodes are like; of several worlds `WorldVectorEnv` says how they stand side by side.
        num_envs: number of sub-environments, of each world.
        max_episode_steps: another time limit than the registered one.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, cannot be what the world says, or takes one world.
    """
    worlds = (world,) if isinstance(world, World) else tuple(world)
    spec = environment_spec(env_id)
    if max_episode_steps is not None:
        spec = dataclasses.replace(spec, max_episode_steps=max_episode_steps)
    with _refusing(env_id):
        if has_own_vector(spec):
            if spec.vector_entry_point == GYMNASIUMS and not spec.kwargs:
                spec = dataclasses.replace(spec, vector_entry_point=CARTPOLES)
            envs = gym.make_vec(spec, num_envs=num_envs * len(worlds), vectorization_mode="vector_entry_point")
            if worlds == (NOMINAL,) and is_in_arrays(envs):
                return envs
            if isinstance(envs, CartPoleVectorEnv):
                return _in_worlds(envs, worlds)
            envs.close()
        if len(worlds) != 1:
            raise EnvironmentUnsupportedError(f"{env_id} can be in one world at a time, not in {len(worlds)}")
        made: list[gym.Env[Any, Any]] = []
        try:
            for _ in range(num_envs):
                # Gymnasium's checker of single environments would halve their speed.
                env = _single(spec, disable_env_checker=True)
                made.append(env if worlds == (NOMINAL,) else _in_world(env, worlds[0]))
            return side_by_side(made, np.zeros(num_envs, dtype=np.bool_))
        except BaseException:
            for env in made:
                env.close()
            raise


def side_by_side(envs: Sequence[gym.Env[Any, Any]], autoreset: npt.NDArray[np.bool_]) -> SyncVectorEnv:
    """Environments in mid-episode as one; `autoreset` `[N]` says whose episode has just ended."""
    together = SyncVectorEnv([partial(_itself, env) for env in envs])
    together._autoreset_envs = autoreset
    return together


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


@contextmanager
def _refusing(env_id: str) -> Iterator[None]:
    """Say in one sentence why an environment cannot be made."""
    try:
        yield
    except (EnvironmentUnsupportedError, MemoryError):
        raise
    except Exception as error:  # an environment's own code runs here, and may raise anything
        raise unsupported(env_id, error) from error


def _single(spec: EnvSpec, **drawn: Any) -> gym.Env[Any, Any]:
    """The environment as it was registered, with actions from 0."""
    env: gym.Env[Any, Any] = gym.make(spec, **drawn)
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
