"""Observations and actions as networks take them: shapes, types, and spaces that are flattened. Torch-free."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatten, flatten_space

from dqn.environments.spec import EnvironmentUnsupportedError

DType = Literal["float32", "uint8", "bool"]
"""A type of numbers, by its name in NumPy and in PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """The observations of an environment and the number of its actions."""

    observation_shape: tuple[int, ...]
    """`[obs]`, or another shape such as `[height, width, channels]`. Training uses rows `[..., observation_size]`."""
    num_actions: int
    dtype: DType = "float32"
    """Type of the observations in training: small whole numbers stay bytes, and networks convert them."""
    divisors: tuple[float, ...] = ()
    """Greatest value of each entry of bytes `[observation_size]`, by which networks divide; empty if all are 1."""
    masked: bool = False
    """Whether the environment has action masks."""
    flattened: str = dataclasses.field(default="", compare=False)
    """The environment's own space, if its observations are flattened."""

    @property
    def note(self) -> str:
        """A sentence about flattened observations; empty without."""
        return f"observations {self.flattened} become {self.observation_size} numbers" if self.flattened else ""

    @property
    def observation_size(self) -> int:
        """Number of entries of an observation."""
        return math.prod(self.observation_shape)

    @property
    def mask_size(self) -> int:
        """Number of actions if the environment has action masks, otherwise 0."""
        return self.num_actions if self.masked else 0

    @property
    def is_image(self) -> bool:
        """Whether an observation has more than one axis."""
        return len(self.observation_shape) > 1


class Flat(gym.ObservationWrapper[Any, Any, Any]):
    """Flattens observations as Gymnasium's FlattenObservation does, which cannot be pickled."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = flatten_space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        """The observation as one axis of numbers."""
        return flatten(self.env.observation_space, observation)


def must_be_flattened(space: Space[Any]) -> bool:
    """Whether observations have no shape of their own but can be flattened to one axis of a fixed length."""
    return (not isinstance(space, spaces.Box) or not space.shape) and space.is_np_flattenable


def flattened_space(env: Any) -> str:
    """The space that a wrapper of `env` flattens; empty if none does."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, Flat):
            return str(env.env.observation_space)
        env = env.env
    return ""


def spaces_of(observation: Space[Any], action: Space[Any], env_id: str) -> Spaces:
    """The spaces of an environment, after flattening.

    Raises:
        EnvironmentUnsupportedError: if the actions are not at least two discrete ones, or the observations have no
            fixed shape.
    """
    if not isinstance(action, spaces.Discrete) or action.n < 2:
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has the actions {action}; supported is a Discrete action space of at least two, "
            "so that a network has one output for each action: wrap the environment in a gymnasium.ActionWrapper"
        )
    if not isinstance(observation, spaces.Box) or not math.prod(observation.shape):
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has the observations {observation}; supported are a Box of at least one number, "
            "and Discrete, MultiDiscrete, MultiBinary, Dict and Tuple, which are flattened"
        )
    greatest = observation.high.reshape(-1)
    dtype = stored_as(observation)
    divided = dtype == "uint8" and bool((greatest > 1).any())
    return Spaces(
        observation_shape=observation.shape,
        num_actions=int(action.n),
        dtype=dtype,
        divisors=tuple(np.maximum(greatest, 1).astype(float).tolist()) if divided else (),
    )


def stored_as(space: spaces.Box) -> DType:
    """The type of the observations of a space in training."""
    if space.dtype == np.bool_:
        return "bool"
    whole = np.issubdtype(space.dtype, np.integer)
    return "uint8" if whole and bool((space.low >= 0).all() and (space.high <= 255).all()) else "float32"
