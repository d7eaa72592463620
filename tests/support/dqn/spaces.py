"""Small environments with every kind of space, in which one action is right: the one that the observation shows."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LENGTH = 8
"""Steps of an episode, each with a reward of 1 if the action is right: the greatest return."""


class Shown(gym.Env[Any, Any]):
    """Shows a hidden 0 or 1 as the space can, and rewards the action of that number.

    Without `ends`, only a time limit ends an episode.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 # as Gymnasium declares it

    def __init__(self, space: spaces.Space[Any], *, ends: bool = True, actions: int = 2) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(actions)
        self.ends = ends
        self.hidden = self.steps = 0

    def _show(self) -> Any:
        self.hidden = int(self.np_random.integers(2))
        return shown(self.observation_space, self.hidden)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(int(action) == self.hidden)
        self.steps += 1
        return self._show(), reward, self.ends and self.steps == LENGTH, False, {}


def shown(space: spaces.Space[Any], hidden: int) -> Any:
    """An element of the space that tells 0 from 1."""
    match space:
        case spaces.Box():
            low, high = (np.clip(bound.astype(float), -3, 255) for bound in (space.low, space.high))
            value = np.where(np.arange(low.size).reshape(low.shape) % 2 == hidden, low, high)
            return np.asarray(value).astype(space.dtype)
        case spaces.Discrete():
            return space.start + hidden
        case spaces.MultiDiscrete():
            return np.full(space.shape, hidden, space.dtype)
        case spaces.MultiBinary():
            return np.full(space.shape, hidden, np.int8)
        case spaces.Dict():
            return {name: shown(each, hidden) for name, each in space.items()}
        case spaces.Tuple():
            return tuple(shown(each, hidden) for each in space)
    raise TypeError(space)


SPACES: dict[str, spaces.Space[Any]] = {
    "floats": spaces.Box(-1, 1, (3,), np.float32),
    "infinite": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "image": spaces.Box(0, 255, (3, 2, 3), np.uint8),
    "bits": spaces.Box(0, 1, (3, 3, 2), np.bool_),
    "whole": spaces.Box(0, 9, (2, 2), np.int64),
    "signed": spaces.Box(-9, 9, (2, 2), np.int32),
    "film": spaces.Box(0, 1, (2, 3, 2, 1), np.float32),
    "discrete": spaces.Discrete(5, start=-1),
    "multi-discrete": spaces.MultiDiscrete([2, 4]),
    "multi-binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(eye=spaces.Box(0, 255, (2, 2, 1), np.uint8), touch=spaces.Discrete(2)),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)]),
}
LARGE: dict[str, spaces.Space[Any]] = {
    "frame": spaces.Box(0, 255, (40, 40, 3), np.uint8),
    "frame of bits": spaces.Box(0, 1, (40, 40, 3), np.bool_),
    "frame of floats": spaces.Box(0, 1, (40, 40, 3), np.float32),
}
"""For `make_shown`; none is registered."""
DTYPES = {
    "bytes": "uint8", "image": "uint8", "bits": "bool", "whole": "uint8", "discrete": "uint8",
    "multi-discrete": "uint8", "multi-binary": "uint8", "dict": "uint8",
}  # fmt: skip
"""What an observation is stored as; float32 where nothing is said."""


def make_shown(space: str, **options: Any) -> Shown:
    """The environment of a named space, as an entry point that Gymnasium is given."""
    return Shown((SPACES | LARGE)[space], **options)


def register() -> None:
    """Make `Shown-NAME-v0` known to Gymnasium for every name, and `Endless-NAME-v0` without a time limit."""
    for name in SPACES:
        gym.register(
            f"Shown-{name}-v0", "tests.support.dqn.spaces:make_shown", max_episode_steps=LENGTH, kwargs={"space": name}
        )
        gym.register(f"Endless-{name}-v0", "tests.support.dqn.spaces:make_shown", kwargs={"space": name, "ends": False})
