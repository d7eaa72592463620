"""An environment with action masks that counts the actions taken, and the ones that its masks did not allow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dqn.config import DQNConfig

CORRIDOR: Final = "Corridor-v0"
BROKEN: Final = "BrokenMask-v0"
LENGTH: Final = 5
ACTIONS: Final = 6
BEST: Final = 10.0 - LENGTH
QUICK: Final = DQNConfig(
    env_id=CORRIDOR,
    num_agents=2,
    num_envs=4,
    hidden_sizes=(32,),
    batch_size=32,
    replay_capacity=2_000,
    gamma=0.9,
    n_step=3,
    initial_q=50.0,
    learning_rate=5e-3,
    epsilon_decay_updates=300,
    exploration_persistence=0.5,
    target_update_interval=20,
    max_updates=600,
    eval_interval=100,
    eval_episodes=4,
    acceptance_return=BEST,
    acceptance_epsilon=0.0,
    acceptance_episodes=4,
    log_interval=50,
)
"""Learns it in seconds. `initial_q`, far above every return, stays the value of the action that is never allowed."""


class Corridor(gym.Env[npt.NDArray[np.float32], np.int64]):
    """Places in a row, observed one-hot. At each, two of five actions are allowed: one step on, and to stay.

    The sixth action never is. A step costs 1, and the last place pays 10. An action that is not allowed ends the
    episode and costs 100.
    """

    observation_space = spaces.Box(0.0, 1.0, (LENGTH,), np.float32)
    action_space = spaces.Discrete(ACTIONS)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 # as Gymnasium's
    taken = 0
    illegal = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = 0
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Corridor.taken += 1
        if not self._info()["action_mask"][action]:
            Corridor.illegal += 1
            return self._observation(), -100.0, True, False, {}
        self._place += int(action) == self._onward()
        arrived = self._place == LENGTH
        return self._observation(), -1.0 + 10.0 * arrived, arrived, False, {} if arrived else self._info()

    def render(self) -> npt.NDArray[np.uint8]:
        return np.full((20, 20, 3), 40 * self._place, dtype=np.uint8)

    def _onward(self) -> int:
        return 2 * self._place % 5

    def _observation(self) -> npt.NDArray[np.float32]:
        observation = np.zeros(LENGTH, dtype=np.float32)
        observation[self._place : self._place + 1] = 1.0
        return observation

    def _info(self) -> dict[str, Any]:
        mask = np.zeros(ACTIONS, dtype=np.int8)
        mask[[self._onward(), (self._onward() + 4) % 5]] = 1
        return {"action_mask": mask}


class Broken(Corridor):
    """Its mask after a step is `answer`, or what that returns if it is a function; `...` leaves it out."""

    answer: Any = ...

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = super().step(action)
        answer = self.answer() if callable(self.answer) else self.answer
        info = {} if answer is ... else {"action_mask": answer}
        return observation, reward, terminated, truncated, info


@contextmanager
def counted() -> Iterator[None]:
    """A block in which a corridor is played and no action is taken that its masks do not allow."""
    taken, illegal = Corridor.taken, Corridor.illegal
    yield
    assert Corridor.taken > taken
    assert Corridor.illegal == illegal


def register() -> None:
    """Make them known to Gymnasium, with a limit of 20 steps."""
    for env_id, kind in ((CORRIDOR, "Corridor"), (BROKEN, "Broken")):
        gym.register(env_id, f"tests.support.dqn.masked:{kind}", max_episode_steps=20, disable_env_checker=True)
