"""Wrappers that put environments into worlds, and selection of sub-environments in mid-episode."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from dqn.environments.conditions import Conditions, Integers
from dqn.environments.masks import ACTION_MASK
from dqn.environments.world import NOMINAL, World

_FASTEST: Final = 1e4  # radians per second, or per second squared; Gymnasium's Acrobot stays below a tenth of it


class FromZero(gym.ActionWrapper[Any, Any, Any]):
    """Makes the actions of a Discrete space count from 0, as networks do."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        own = cast("spaces.Discrete", env.action_space)
        self.start = int(own.start)
        self.action_space = spaces.Discrete(int(own.n))

    def action(self, action: Any) -> Any:
        """The environment's own number of an action."""
        return action + self.start


class WorldEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A single environment in a world that may change in mid-episode."""

    def __init__(self, env: gym.Env[Any, Any], world: World = NOMINAL) -> None:
        super().__init__(env)
        bare: Any = env.unwrapped
        if isinstance(bare, AcrobotEnv):
            bare._dsdt = partial(_bounded, bare._dsdt)  # type: ignore[method-assign] # bounds what its step integrates
        self._conditions = Conditions((world,), env, num_envs=1, space=env.observation_space)

    @property
    def world(self) -> World:
        """The current world."""
        return self._conditions.worlds[0]

    @property
    def can_be_pushed(self) -> bool:
        """Whether there is a cart to push."""
        return self._conditions.has_cart

    def change(self, world: World) -> None:
        """Change the world from the next step on; values are drawn from its ranges at once.

        Raises:
            EnvironmentUnsupportedError: if the environment cannot have this world; the previous world remains.
        """
        self._conditions.change(world)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `seed` also determines the world's draws."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._conditions.reset(seed, masked=ACTION_MASK in info)
        return self._conditions.observe(observation[np.newaxis])[0], info

    def step(self, action: Any, push: float = 0.0) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action while an additional outside force `push`, in newtons, acts on the cart."""
        applied = self._conditions.apply(np.array([action]), push)
        observation, reward, terminated, truncated, info = self.env.step(applied[0])
        self._conditions.advance(np.zeros(1, dtype=np.bool_))
        return self._conditions.observe(observation[np.newaxis])[0], reward, terminated, truncated, info


class WorldVectorEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """Gymnasium's vector CartPole in worlds, with one parameter value per sub-environment.

    Several worlds have as many sub-environments each, in consecutive rows. The k-th sub-environments of all worlds
    start from the same state and are pushed from the same side, as they would be in a world of their own.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *worlds: World) -> None:
        super().__init__(env)
        self.metadata = env.metadata
        self._conditions = Conditions(worlds, env, num_envs=env.num_envs, space=env.single_observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes; `seed` also determines the world's draws."""
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
        """Take actions `[N]`; an ended sub-environment is reset instead."""
        resetting = cast("CartPoleVectorEnv", self.env).prev_done
        applied = self._conditions.apply(actions)
        observation, reward, terminated, truncated, info = self.env.step(applied)
        self._conditions.advance(resetting)
        return self._conditions.observe(observation), reward, terminated, truncated, info

    def select(self, rows: Integers) -> "WorldVectorEnv":
        """The sub-environments `rows` in mid-episode: any rows of a single world, or all rows of some worlds."""
        selected = copy.copy(self)
        selected.env = narrowed(self.env, rows)
        selected._conditions = self._conditions.select(selected.env, rows)
        return selected


def _bounded(rates: Callable[[Any], tuple[float, ...]], state: Any) -> tuple[float, ...]:
    """The derivatives that Acrobot integrates in a step, which then takes turns off an angle one at a time.

    In some worlds it would never end: an angle of 1e17 less a turn is the same number.
    """
    return tuple(max(-_FASTEST, min(_FASTEST, rate)) for rate in rates(state))


def is_in_arrays(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Whether the state is in arrays that `narrowed` supports, as in Gymnasium's vector CartPole."""
    in_arrays = {"state", "steps", "prev_done"} <= vars(envs).keys()
    return in_arrays and envs.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP


def narrowed(envs: VectorEnv[Any, Any, Any], rows: Integers) -> VectorEnv[Any, Any, Any]:
    """The sub-environments `rows` of environments in arrays, in mid-episode; `envs` must not be stepped afterwards."""
    if isinstance(envs, WorldVectorEnv):
        return envs.select(rows)
    kept: Any = copy.copy(envs)
    kept.num_envs = len(rows)
    kept.action_space = batch_space(kept.single_action_space, len(rows))
    kept.observation_space = batch_space(kept.single_observation_space, len(rows))
    kept.state, kept.steps, kept.prev_done = kept.state[:, rows], kept.steps[rows], kept.prev_done[rows]
    return kept  # type: ignore[no-any-return] # attributes of a concrete class
