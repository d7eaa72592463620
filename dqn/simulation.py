"""Environments in a world: made here alone, for training, evaluation, benchmarks and the server. Torch-free."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from dqn.cartpole import CARTPOLES
from dqn.conditions import Conditions, Integers
from dqn.spec import GYMNASIUMS, EnvironmentUnsupportedError, environment_spec, has_own_vector, unsupported
from dqn.world import NOMINAL, World


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


class FromZero(gym.ActionWrapper[Any, Any, Any]):
    """Counts the actions of a Discrete space from 0, as networks do, where it starts at another number."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        own = cast("spaces.Discrete", env.action_space)
        self.start = int(own.start)
        self.action_space = spaces.Discrete(int(own.n))

    def action(self, action: Any) -> Any:
        """The environment's own number of an action."""
        return action + self.start


class WorldEnv(gym.Wrapper[Any, Any, Any, Any]):
    """One environment in a world that may change in mid-episode."""

    def __init__(self, env: gym.Env[Any, Any], world: World = NOMINAL) -> None:
        super().__init__(env)
        self._conditions = Conditions((world,), env, num_envs=1, space=env.observation_space)

    @property
    def world(self) -> World:
        """What the episodes are like at this moment."""
        return self._conditions.worlds[0]

    @property
    def can_be_pushed(self) -> bool:
        """Whether there is a cart to push."""
        return self._conditions.has_cart

    def change(self, world: World) -> None:
        """Another world from the next step on; where it has ranges, they are drawn from at once.

        Raises:
            EnvironmentUnsupportedError: if the environment cannot be what the world says; it stays as it was.
        """
        self._conditions.change(world)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a seed determines the world's draws too."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._conditions.reset(seed)
        return self._conditions.observe(observation[np.newaxis])[0], info

    def step(self, action: Any, push: float = 0.0) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action while an outside force `push`, in newtons, acts on the cart beside the world's own."""
        applied = self._conditions.apply(np.array([action]), push)
        observation, reward, terminated, truncated, info = self.env.step(applied[0])
        self._conditions.advance(np.zeros(1, dtype=np.bool_))
        return self._conditions.observe(observation[np.newaxis])[0], reward, terminated, truncated, info


class WorldVectorEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """Gymnasium's vector CartPole in a world, with parameters in arrays, one entry a sub-environment.

    Several worlds stand side by side with as many sub-environments each, the rows of one after those of the other. The
    k-th sub-environments of all of them start from the same state and are pushed from the same side, as they would be
    were each world alone.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *worlds: World) -> None:
        super().__init__(env)
        self.metadata = env.metadata
        self._conditions = Conditions(worlds, env, num_envs=env.num_envs, space=env.single_observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes; a seed determines the world's draws too."""
        observation, info = self.env.reset(seed=seed, options=options)
        if (worlds := len(self._conditions.worlds)) > 1:
            cart: Any = self.env
            cart.np_random, _ = seeding.np_random(seed)
            alone = cart.np_random.uniform(cart.low, cart.high, (4, self.num_envs // worlds))
            cart.state = np.tile(alone, worlds)
            observation = cart.state.T.astype(np.float32)
        self._conditions.reset(seed)
        return self._conditions.observe(observation), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take actions `[N]`; an ended sub-environment is reset instead, and draws anew."""
        resetting = cast("CartPoleVectorEnv", self.env).prev_done
        applied = self._conditions.apply(actions)
        observation, reward, terminated, truncated, info = self.env.step(applied)
        self._conditions.advance(resetting)
        return self._conditions.observe(observation), reward, terminated, truncated, info

    def select(self, rows: Integers) -> "WorldVectorEnv":
        """The sub-environments `rows`, in mid-episode; of several worlds all those of the ones that are kept."""
        selected = copy.copy(self)
        selected.env = narrowed(self.env, rows)
        selected._conditions = self._conditions.select(selected.env, rows)
        return selected


def is_in_arrays(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Whether all sub-environments live in arrays that can be narrowed, as in Gymnasium's vector CartPole."""
    in_arrays = {"state", "steps", "prev_done"} <= vars(envs).keys()
    return in_arrays and envs.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP


def narrowed(envs: VectorEnv[Any, Any, Any], rows: Integers) -> VectorEnv[Any, Any, Any]:
    """The sub-environments `rows` of environments in arrays, in mid-episode; `envs` must not be stepped any more."""
    if isinstance(envs, WorldVectorEnv):
        return envs.select(rows)
    kept: Any = copy.copy(envs)
    kept.num_envs = len(rows)
    kept.action_space = batch_space(kept.single_action_space, len(rows))
    kept.observation_space = batch_space(kept.single_observation_space, len(rows))
    kept.state, kept.steps, kept.prev_done = kept.state[:, rows], kept.steps[rows], kept.prev_done[rows]
    return kept  # type: ignore[no-any-return] # attributes of one class behind a generic one
