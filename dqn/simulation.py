"""Environments in a world: made here alone, for training, evaluation, benchmarks and the server. Torch-free."""

import dataclasses
from functools import partial
from typing import Any, Final, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from dqn.spec import EnvironmentUnsupportedError, environment_spec, unsupported
from dqn.world import ENTRYWISE, NOMINAL, WHOLE, World

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_WORLD: Final = 0x77
"""Tells the world's generator from the environment's, which has the same seed."""

_CARTPOLE: Final[dict[str, tuple[str, ...]]] = {
    name: (name,) for name in ("length", "masspole", "masscart", "gravity", "force_mag", "tau")
}
_ATTRIBUTES: Final[dict[type, dict[str, tuple[str, ...]]]] = {
    CartPoleEnv: _CARTPOLE,
    CartPoleVectorEnv: _CARTPOLE,
    AcrobotEnv: {
        "length": ("LINK_LENGTH_1", "LINK_LENGTH_2"),
        "masspole": ("LINK_MASS_1", "LINK_MASS_2"),
        "inertia": ("LINK_MOI",),
        "tau": ("dt",),
    },
    MountainCarEnv: {"gravity": ("gravity",), "force_mag": ("force",)},
}


def make(env_id: str, world: World = NOMINAL, *, render_mode: str | None = None) -> "WorldEnv":
    """A single environment in a world.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, or cannot be what the world says.
    """
    drawn: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment takes it
    try:
        env = gym.make(environment_spec(env_id), **drawn)
    except (gym.error.Error, ImportError) as error:
        raise unsupported(env_id, error) from error
    return WorldEnv(env, world)


def make_vec(
    env_id: str, world: World = NOMINAL, *, num_envs: int, max_episode_steps: int | None = None
) -> VectorEnv[Any, Any, Any]:
    """As many environments in a world, side by side, which reset an ended episode at the next step.

    The environment's own vector implementation is used where it is in arrays, Gymnasium's SyncVectorEnv otherwise; in
    the nominal world they are Gymnasium's own objects.

    Args:
        env_id: a registered Gymnasium environment with a time limit.
        world: what the episodes are like.
        num_envs: number of sub-environments.
        max_episode_steps: another time limit than the registered one.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, or cannot be what the world says.
    """
    spec = environment_spec(env_id)
    if max_episode_steps is not None:
        spec = dataclasses.replace(spec, max_episode_steps=max_episode_steps)
    try:
        if spec.vector_entry_point is not None:
            envs = gym.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point")
            if world == NOMINAL and is_in_arrays(envs):
                return envs
            if isinstance(envs, CartPoleVectorEnv):
                return WorldVectorEnv(envs, world)
            envs.close()
        wrappers = [] if world == NOMINAL else [partial(WorldEnv, world=world)]
        # Gymnasium's checker of single environments would halve their speed.
        return gym.make_vec(
            spec, num_envs=num_envs, vectorization_mode="sync", wrappers=wrappers, disable_env_checker=True
        )
    except (gym.error.Error, ImportError) as error:
        raise unsupported(env_id, error) from error


class WorldEnv(gym.Wrapper[Any, Any, Any, Any]):
    """One environment in a world that may change in mid-episode."""

    def __init__(self, env: gym.Env[Any, Any], world: World = NOMINAL) -> None:
        super().__init__(env)
        self._conditions = _Conditions(world, env, num_envs=1, space=env.observation_space)

    @property
    def world(self) -> World:
        """What the episodes are like at this moment."""
        return self._conditions.world

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
    """Gymnasium's vector CartPole in a world, with parameters in arrays, one entry a sub-environment."""

    def __init__(self, env: VectorEnv[Any, Any, Any], world: World) -> None:
        super().__init__(env)
        self.metadata = env.metadata
        self._conditions = _Conditions(world, env, num_envs=env.num_envs, space=env.single_observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes; a seed determines the world's draws too."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._conditions.reset(seed)
        return self._conditions.observe(observation), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take actions `[N]`; an ended sub-environment is reset instead, and draws anew."""
        resetting = cast("CartPoleVectorEnv", self.env).prev_done
        applied = self._conditions.apply(actions)
        observation, reward, terminated, truncated, info = self.env.step(applied)
        self._conditions.advance(resetting)
        return self._conditions.observe(observation), reward, terminated, truncated, info

    def select(self, narrowed: VectorEnv[Any, Any, Any], rows: list[int]) -> "WorldVectorEnv":
        """The same world around `narrowed`, which holds the sub-environments `rows` of this one."""
        selected = WorldVectorEnv(narrowed, self._conditions.world)
        selected._conditions.take(self._conditions, rows)
        return selected


def is_in_arrays(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Whether all sub-environments live in arrays that can be narrowed, as in Gymnasium's vector CartPole."""
    in_arrays = {"state", "steps", "prev_done"} <= vars(envs).keys()
    return in_arrays and envs.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP


class _Conditions:
    """A world in N sub-environments at this moment: what each drew at its last reset, and the actions on their way."""

    def __init__(self, world: World, env: Any, *, num_envs: int, space: Space[Any]) -> None:
        self._env = env.unwrapped
        self._attributes = next((names for kind, names in _ATTRIBUTES.items() if isinstance(self._env, kind)), {})
        self._observation_size = spaces.flatdim(space)
        self.has_cart = isinstance(self._env, CartPoleEnv | CartPoleVectorEnv)
        self._own = {name: getattr(self._env, attributes[0]) for name, attributes in self._attributes.items()}
        self._generator = np.random.default_rng()
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._pushed = False
        self.change(world)

    def change(self, world: World) -> None:
        """Another world from the next step on; a delay counts from now."""
        self._require_possible(world)
        N = len(self._steps)
        self.world = world
        given = {"push_interval", *world.to_dict()}
        self._values: dict[str, Any] = {name: value for name, value in vars(world).items() if name in given}
        self._drawn = {name: _draw(self._generator, name, value, N) for name, value in self._values.items()}
        self._varying = [name for name, value in self._values.items() if _varies(name, value)]
        self._since = self._steps.copy()
        self._actions = np.zeros((int(np.max(world.action_delay)) + 1, N), dtype=np.int64)
        self._set_parameters()

    def reset(self, seed: int | None) -> None:
        """All sub-environments begin an episode."""
        if seed is not None:  # beside the environment's own generator, which is left alone
            self._generator = np.random.default_rng((_WORLD, seed))
        self._begin(np.ones(len(self._steps), dtype=np.bool_))

    def apply(self, action: Integers, push: float = 0.0) -> Integers:
        """Set the forces of the next step; returns the actions `[N]` that take effect in it."""
        delay = self._drawn.get("action_delay")
        if delay is not None:
            length, columns = len(self._actions), np.arange(len(self._steps))
            self._actions[self._steps % length, columns] = action
            due = np.maximum(self._steps - delay.astype(np.int64), self._since)
            action = self._actions[due % length, columns]
        outside = bool(push) or "wind" in self._drawn or "push_force" in self._drawn
        if self.has_cart and (outside or self._pushed):
            # CartPole applies +force_mag for action 1 and -force_mag for 0: the sum of both forces, by its own dynamics
            force_mag = self._drawn.get("force_mag", self._own["force_mag"])
            self._set("force_mag", force_mag + np.where(action == 1, 1.0, -1.0) * (self._outside_force() + push))
            self._pushed = outside
        return action

    def advance(self, resetting: npt.NDArray[np.bool_]) -> None:
        """A step has been taken; in it the sub-environments in the mask `resetting` `[N]` began an episode instead."""
        self._steps += 1
        if resetting.any():
            self._begin(resetting)

    def observe(self, observation: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """What the sensors make of observations `[N, obs]`."""
        bias, deviation = self._drawn.get("sensor_bias"), self._drawn.get("sensor_noise")
        if bias is not None:
            observation = observation + bias
        if deviation is not None:
            observation = observation + deviation * self._generator.standard_normal(observation.shape)
        return observation.astype(np.float32, copy=False)

    def take(self, source: "_Conditions", rows: list[int]) -> None:
        """Go on from the sub-environments `rows` of `source`, of the same world."""
        self._generator = source._generator
        self._steps, self._since = source._steps[rows], source._since[rows]
        self._actions = source._actions[:, rows]
        self._drawn = {name: values[rows] for name, values in source._drawn.items()}
        self._own = source._own
        self._set_parameters()

    def _begin(self, rows: npt.NDArray[np.bool_]) -> None:
        self._steps[rows] = self._since[rows] = 0
        for name in self._varying:
            self._drawn[name][rows] = _draw(self._generator, name, self._values[name], int(rows.sum()))
        if self._varying:
            self._set_parameters()

    def _outside_force(self) -> Floats:
        """Newtons `[N]` of the world on the cart in the next step."""
        N = len(self._steps)
        force = self._drawn.get("wind", np.zeros(N))
        pushes = self._drawn.get("push_force")
        if pushes is None:
            return force
        due = (self._steps > 0) & (self._steps % self._drawn["push_interval"].astype(np.int64) == 0)
        if not due.any():
            return force
        side = self._generator.choice((-1.0, 1.0), N)
        return np.where(due, force + side * pushes, force)

    def _set_parameters(self) -> None:
        for name in self._attributes:
            self._set(name, self._drawn.get(name, self._own[name]))
        if self.has_cart:
            self._env.total_mass = self._env.masspole + self._env.masscart
            self._env.polemass_length = self._env.masspole * self._env.length

    def _set(self, name: str, value: Any) -> None:
        single = isinstance(self._env, gym.Env) and isinstance(value, np.ndarray)
        for attribute in self._attributes[name]:
            setattr(self._env, attribute, float(value[0]) if single else value)

    def _require_possible(self, world: World) -> None:
        possible = {*self._attributes, "action_delay", *ENTRYWISE}
        if self.has_cart:
            possible |= {"wind", "push_force", "push_interval"}
        env_id = self._env.spec.id
        if impossible := [name for name in world.to_dict() if name not in possible]:
            raise EnvironmentUnsupportedError(
                f"{env_id} has no {' and no '.join(impossible)} that a world could change; "
                f"it has {', '.join(sorted(possible))}"
            )
        for name in ENTRYWISE:
            if len(getattr(world, name)) not in (0, self._observation_size):
                raise EnvironmentUnsupportedError(
                    f"world.{name} has {len(getattr(world, name))} entries and {env_id} has observations of "
                    f"{self._observation_size}; give one number for each, or none"
                )


def _draw(generator: np.random.Generator, name: str, value: Any, count: int) -> Floats:
    """Values `[count]` of a field, or `[count, obs]` of one that has an entry for each of the observation."""
    if name in ENTRYWISE:
        return np.stack([_draw(generator, "", entry, count) for entry in value], axis=1)
    if not isinstance(value, tuple):
        return np.full(count, value, dtype=np.float64)
    if name in WHOLE:
        return generator.integers(value[0], value[1] + 1, count).astype(np.float64)
    low, high = value
    return np.asarray(generator.uniform(low, high, count), dtype=np.float64)


def _varies(name: str, value: Any) -> bool:
    return any(isinstance(entry, tuple) for entry in (value if name in ENTRYWISE else (value,)))
