"""Applies worlds to N sub-environments: draws at resets; forces, delays and sensors at steps. Torch-free."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv

from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import ENTRYWISE, NOMINAL, WHOLE, World

Integers = npt.NDArray[np.int64]

_WORLD: Final = 0x77
"""Distinguishes the world's generator from the environment's, which has the same seed."""

_ATTRIBUTE: Final = "attributes."
FACTOR: Final = 4.0
"""An attribute changes by this factor at most: beyond it equations become singular, and a step of Acrobot may hang."""
_CARTPOLE: Final[dict[str, tuple[str, ...]]] = {
    name: (name,) for name in ("length", "masspole", "masscart", "gravity", "force_mag", "tau")
}
ATTRIBUTES: Final[dict[type, dict[str, tuple[str, ...]]]] = {
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
"""Of each environment the attributes that a field of a world changes."""


class Conditions:
    """The worlds of N sub-environments: the values drawn at the last resets, and the delayed actions.

    Each of W worlds has N / W sub-environments. Random numbers of a step are drawn once for N / W sub-environments and
    used in every world. An episode's random numbers therefore do not depend on other worlds or policies.
    """

    def __init__(self, worlds: Sequence[World], env: Any, *, num_envs: int, space: Space[Any]) -> None:
        self._env = env.unwrapped
        kind = next((kind for kind in ATTRIBUTES if isinstance(self._env, kind)), None)
        self._attributes = dict(ATTRIBUTES[kind]) if kind else {}
        self._observation_size = spaces.flatdim(space)
        self._has_sensors = np.issubdtype(space.dtype, np.floating) and len(space.shape or ()) == 1
        self.has_cart = isinstance(self._env, CartPoleEnv | CartPoleVectorEnv)
        self._own = {name: getattr(self._env, attributes[0]) for name, attributes in self._attributes.items()}
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._clock = 0
        self._pushed = self._masked = False
        self.worlds = tuple(worlds)
        self._seed(None)
        self.change(*worlds)

    def change(self, *worlds: World) -> None:
        """Replace the worlds by as many others from the next step on; action delays count from now."""
        for world in worlds:
            self._require_possible(world)
        self._add_attributes(worlds)
        self.worlds = worlds
        each = len(self._steps) // len(worlds)
        self._drawn = {
            name: np.concatenate(
                [
                    _draw(generator, name, self._value(world, name), each)
                    for generator, world in zip(self._at_reset, worlds, strict=True)
                ]
            )
            for name in self._given()
        }
        self._varying = [[name for name, value in world.flat().items() if _varies(name, value)] for world in worlds]
        self._since = self._steps.copy()
        delay = max(int(np.max(world.action_delay)) for world in worlds)
        self._actions = np.zeros((delay + 1, len(self._steps)), dtype=np.int64)
        self._set_parameters()

    def reset(self, seed: int | None, *, masked: bool = False) -> None:
        """Begin an episode in all sub-environments; `masked` if the environment has action masks.

        Raises:
            EnvironmentUnsupportedError: if a world delays the actions of an environment with action masks.
        """
        self._masked = masked
        for world in self.worlds if masked else ():
            self._require_possible(world)
        if seed is not None:  # the environment's own generator is not used
            self._seed(seed)
        self._begin(np.ones(len(self._steps), dtype=np.bool_))

    def apply(self, action: Integers, push: float = 0.0) -> Integers:
        """Set the forces of the next step; return the actions `[N]` that take effect in it."""
        if "action_delay" in self._drawn:
            action = self._due(action)
        force = self._outside_force() + push
        pushed = isinstance(force, np.ndarray) or force != 0.0
        if self.has_cart and (pushed or self._pushed):
            # CartPole applies +force_mag for action 1 and -force_mag for 0; add the outside force to it.
            self._set("force_mag", self._drawn.get("force_mag", self._own["force_mag"]) + (2 * action - 1) * force)
            self._pushed = pushed
        return action

    def advance(self, resetting: npt.NDArray[np.bool_]) -> None:
        """Record that a step was taken, in which the sub-environments `resetting` `[N]` began an episode instead."""
        self._steps += 1
        self._clock += 1
        if resetting.any():
            self._begin(resetting)

    def observe(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Observations `[N, obs]`, float32, with the sensors' bias and noise; images and whole numbers as they are."""
        bias, deviation = self._drawn.get("sensor_bias"), self._drawn.get("sensor_noise")
        if bias is not None:
            observation = observation + bias
        if deviation is not None:
            each = deviation.reshape(len(self.worlds), -1, self._observation_size)
            noise = each * self._noise.standard_normal(each.shape[1:], dtype=np.float32)
            observation = observation + noise.reshape(observation.shape)
        return observation.astype(np.float32, copy=False) if self._has_sensors else observation

    def select(self, env: Any, rows: Integers) -> "Conditions":
        """The conditions for `env`, which has `rows` of the N: any rows of one world, or all rows of some worlds."""
        each = len(self._steps) // len(self.worlds)
        kept = copy.copy(self)
        kept._env = env.unwrapped
        kept.worlds = tuple(self.worlds[k] for k in rows[::each] // each)
        kept._varying = [self._varying[k] for k in rows[::each] // each]
        kept._at_reset = [self._at_reset[k] for k in rows[::each] // each]
        kept._steps, kept._since = self._steps[rows], self._since[rows]
        kept._actions = self._actions[:, rows]
        kept._drawn = {name: self._drawn[name][rows] for name in kept._given()}
        kept._set_parameters()
        return kept

    def _given(self) -> list[str]:
        """Names of the fields and attributes that some world changes, and of the push interval."""
        given = {"push_interval"}.union(*(world.to_dict() for world in self.worlds))
        attributes = {name for world in self.worlds for name in world.flat() if name.startswith(_ATTRIBUTE)}
        return [name for name in NOMINAL.flat() if name in given] + sorted(attributes)

    def _value(self, world: World, name: str) -> Any:
        value = world.flat().get(name)
        if value is None:
            return self._own[name]
        return value if value != () else (0.0,) * self._observation_size

    def _seed(self, seed: int | None) -> None:
        def generator(stream: int) -> np.random.Generator:
            return np.random.default_rng(None if seed is None else (_WORLD, seed, stream))

        self._at_reset = [generator(0) for _ in self.worlds]
        self._sides, self._noise = generator(1), generator(2)

    def _begin(self, rows: npt.NDArray[np.bool_]) -> None:
        self._steps[rows] = self._since[rows] = 0
        if not any(self._varying):
            return
        for k, (world, mine) in enumerate(zip(self.worlds, rows.reshape(len(self.worlds), -1), strict=True)):
            beginning = mine.nonzero()[0] + k * len(mine)
            for name in self._varying[k]:
                self._drawn[name][beginning] = _draw(self._at_reset[k], name, world.flat()[name], len(beginning))
        self._set_parameters()

    def _due(self, action: Integers) -> Integers:
        """Actions `[N]` that take effect in the step in which `action` is taken."""
        length, columns = len(self._actions), np.arange(len(self._steps))
        self._actions[self._clock % length] = action
        behind = np.minimum(self._drawn["action_delay"], self._steps - self._since)
        return np.asarray(self._actions[(self._clock - behind) % length, columns])

    def _outside_force(self) -> Any:
        """The world's force on the cart in the next step, in newtons, `[N]` or 0."""
        force = self._drawn.get("wind", 0.0)
        pushes = self._drawn.get("push_force")
        if pushes is None:
            return force
        # Drawn in every step, so that the draws do not depend on when episodes end.
        right = self._sides.integers(0, 2, len(self._steps) // len(self.worlds), dtype=np.bool_)
        due = (self._steps > 0) & (self._steps % self._drawn["push_interval"] == 0)
        if not due.any():
            return force
        return force + np.where(np.tile(right, len(self.worlds)), pushes, -pushes) * due

    def _set_parameters(self) -> None:
        # A field may change an attribute too: what a world names is set after it, what none names any more before it.
        for name in sorted(
            self._attributes, key=lambda name: name.startswith(_ATTRIBUTE) * (2 * (name in self._drawn) - 1)
        ):
            self._set(name, self._drawn.get(name, self._own[name]))
        if self.has_cart:
            self._env.total_mass = self._env.masspole + self._env.masscart
            self._env.polemass_length = self._env.masspole * self._env.length

    def _set(self, name: str, value: Any) -> None:
        if isinstance(self._env, gym.Env) and isinstance(value, np.ndarray):
            value = float(value[0])
            value = int(value) if type(self._own[name]) is int and value.is_integer() else value
        for attribute in self._attributes[name]:
            setattr(self._env, attribute, value)

    def _add_attributes(self, worlds: Sequence[World]) -> None:
        """Remember the environment's own values of the attributes of these worlds."""
        for name in {name for world in worlds for name in world.attributes}:
            self._own[_ATTRIBUTE + name] = self._own_value(name)
            self._attributes[_ATTRIBUTE + name] = (name,)

    def _own_value(self, attribute: str) -> Any:
        """An attribute's value before any change."""
        changed = (name for name, attributes in self._attributes.items() if attribute in attributes)
        return next((self._own[name] for name in changed), getattr(self._env, attribute))

    def _changeable(self) -> list[str]:
        """Names of the environment's own numbers that no field names. Whole ones are perhaps counts: only arguments."""
        if self.has_cart:
            return []
        env, named = self._env, self._named()
        arguments = inspect.signature(type(env)).parameters
        kinds = {name: type(inspect.getattr_static(env, name, None)) for name in dir(env) if not name.startswith("_")}
        numbers = [name for name, kind in kinds.items() if kind is float or (kind is int and name in arguments)]
        return [name for name in numbers if name not in named]

    def _named(self) -> dict[str, str]:
        """The field of each attribute that a field changes alone."""
        alone = {names[0]: field for field, names in self._attributes.items() if len(names) == 1}
        return {name: field for name, field in alone.items() if not field.startswith(_ATTRIBUTE)}

    def _require_possible(self, world: World) -> None:
        possible = {*self._attributes, "action_delay", *(ENTRYWISE if self._has_sensors else ())}
        possible |= {"wind", "push_force", "push_interval"} if self.has_cart else {"attributes"}
        env_id = self._env.spec.id
        changeable = self._changeable() if world.attributes else []
        if unknown := [name for name in world.attributes if name not in changeable]:
            field = self._named().get(unknown[0])
            hint = f"use world.{field}" if field else f"it has {', '.join(changeable) or 'none'}"
            raise EnvironmentUnsupportedError(
                f"{env_id} has no {unknown[0]!r:.40} among the attributes for a world to change; {hint}"
            )
        for name, value in world.attributes.items():
            own = self._own_value(name)
            low, high = sorted((own / FACTOR, own * FACTOR)) if own else (-1.0, 1.0)
            if not all(low <= number <= high for number in (value if isinstance(value, tuple) else (value,))):
                raise EnvironmentUnsupportedError(
                    f"world.attributes.{name} must be from {low:g} to {high:g} in {env_id}, got {value}"
                )
        if impossible := [name for name in world.to_dict() if name not in possible]:
            raise EnvironmentUnsupportedError(
                f"{env_id} has no {' and no '.join(impossible)} for a world to change; "
                f"it has {', '.join(name for name in sorted(possible) if not name.startswith(_ATTRIBUTE))}"
            )
        if self._masked and world.action_delay != 0:
            raise EnvironmentUnsupportedError(
                f"{env_id} has an action mask, and an action that was allowed when it was chosen need not be when it "
                "takes effect: world.action_delay must be 0"
            )
        for name in ENTRYWISE:
            if len(getattr(world, name)) not in (0, self._observation_size):
                raise EnvironmentUnsupportedError(
                    f"world.{name} has {len(getattr(world, name))} entries and {env_id} has observations of "
                    f"{self._observation_size}; give one number for each, or none"
                )


def _draw(generator: np.random.Generator, name: str, value: Any, count: int) -> npt.NDArray[Any]:
    """Values `[count]` of a field, or `[count, obs]` of a field with one entry per entry of the observation."""
    if name in ENTRYWISE:
        drawn = np.empty((count, len(value)), dtype=np.float32)
        for column, entry in enumerate(value):
            drawn[:, column] = generator.uniform(entry[0], entry[1], count) if isinstance(entry, tuple) else entry
        return drawn
    dtype = np.int64 if name in WHOLE else np.float64
    if not isinstance(value, tuple):
        return np.full(count, value, dtype=dtype)
    low, high = value
    if name in WHOLE:
        return generator.integers(low, high + 1, count, dtype=np.int64)
    return np.asarray(generator.uniform(low, high, count), dtype=np.float64)


def _varies(name: str, value: Any) -> bool:
    return any(isinstance(entry, tuple) for entry in (value if name in ENTRYWISE else (value,)))
