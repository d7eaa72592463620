"""Environments with known optimal Q-values; one fault of a learner makes each of them unlearnable.

After the probe environments of rejax and of Andy Jones, "Debugging Reinforcement Learning Systems" (2021).
"""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dqn.config import DQNConfig

Observation = npt.NDArray[np.float32]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]

QUICK = DQNConfig(
    num_agents=2,
    num_envs=8,
    hidden_sizes=(32,),
    batch_size=64,
    replay_capacity=5_000,
    gamma=0.9,
    epsilon_end=1.0,
    learning_rate=1e-2,
    learning_rate_end=1e-4,
    learning_rate_decay_updates=600,
    target_update_interval=10,
    max_updates=600,
    eval_interval=10_000,
)
"""Learns any of them in a second."""


class Probe(gym.Env[Observation, np.int64]):
    """What the probes share: one number observed, at first the one that `_start` draws, and two actions."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(self._start()), {}

    def _start(self) -> float:
        return 0.0

    def _observe(self, value: float) -> Observation:
        return np.array([value], dtype=np.float32)


class ConstantReward(Probe):
    """One step, reward 1: Q = 1. Fails if the loss or the optimizer is broken."""

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), 1.0, True, False, {}


class ObservedReward(Probe):
    """One step, the reward is the observation, +-1: Q = observation. Fails if observations go astray."""

    def _start(self) -> float:
        self._value = float(self.np_random.choice([-1.0, 1.0]))
        return self._value

    def step(self, action: np.int64) -> Step:
        return self._observe(self._value), self._value, True, False, {}


class DelayedReward(Probe):
    """Two steps, observed as 0 and 1, reward 1 at the end: Q(0) = gamma, Q(1) = 1. Fails if discounting is wrong."""

    def _start(self) -> float:
        self._step = 0
        return 0.0

    def step(self, action: np.int64) -> Step:
        self._step += 1
        ended = self._step == 2
        return self._observe(1.0), float(ended), ended, False, {}


class ActionReward(Probe):
    """One step, action 1 earns 1 and action 0 earns -1: Q = (-1, 1). Fails if actions are mixed up."""

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), 2.0 * float(action) - 1.0, True, False, {}


class EndlessReward(Probe):
    """Reward 1 a step and no end but a time limit after 5: Q = 1 / (1 - gamma) if truncation bootstraps."""

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), 1.0, False, False, {}


class RandomLength(Probe):
    """Reward 1 a step for as many steps as the first observation says, in tenths: 1 to 9."""

    def _start(self) -> float:
        self._left = int(self.np_random.integers(1, 10))
        return self._left / 10

    def step(self, action: np.int64) -> Step:
        self._left -= 1
        return self._observe(self._left / 10), 1.0, self._left == 0, False, {}


class LongDelay(Probe):
    """Ten steps, observed as 0 to 0.9, reward 1 at the end whatever was done: Q = gamma^(steps still to come)."""

    length = 10

    def _start(self) -> float:
        self._position = 0
        return 0.0

    def step(self, action: np.int64) -> Step:
        self._position += 1
        ended = self._position == self.length
        return self._observe(self._position / self.length), float(ended), ended, False, {}


class RareReward(Probe):
    """One step; in one of fifty the observation is x in (0, 1) and earns sin(6 x), else it is -1 and earns nothing."""

    def _start(self) -> float:
        rewarded = self.np_random.random() < 0.02
        self._value = float(self.np_random.random()) if rewarded else -1.0
        return self._value

    def step(self, action: np.int64) -> Step:
        reward = float(np.sin(6 * self._value)) if self._value > 0 else 0.0
        return self._observe(0.0), reward, True, False, {}


class ManyActions(Probe):
    """One step, the reward is the observation whatever the action, of which there are 64."""

    action_space = spaces.Discrete(64)

    def _start(self) -> float:
        self._value = float(self.np_random.uniform(-1.0, 1.0))
        return self._value

    def step(self, action: np.int64) -> Step:
        return self._observe(self._value), self._value, True, False, {}


class Outliers(Probe):
    """One step, the reward is the observation, +-1, but in one of ten it is +-50: rare and without a meaning."""

    def _start(self) -> float:
        self._value = float(self.np_random.choice([-1.0, 1.0]))
        return self._value

    def step(self, action: np.int64) -> Step:
        noise = float(self.np_random.choice([-50.0, 50.0])) if self.np_random.random() < 0.1 else 0.0
        return self._observe(self._value), self._value + noise, True, False, {}


class RareWin(Probe):
    """One step, reward 1 in one of four, else 0: the return is 0 up to its quantile at 3/4, and 1 above."""

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), float(self.np_random.random() < 0.25), True, False, {}


def register() -> None:
    """Make the probes known to Gymnasium, once."""
    for probe in (
        ConstantReward,
        ObservedReward,
        DelayedReward,
        ActionReward,
        RandomLength,
        LongDelay,
        RareReward,
        ManyActions,
        Outliers,
        RareWin,
    ):
        gym.register(
            f"Probe{probe.__name__}-v0",
            f"tests.support.dqn.probes:{probe.__name__}",
            max_episode_steps=50,
            disable_env_checker=True,
        )
    gym.register(
        "ProbeEndlessReward-v0", "tests.support.dqn.probes:EndlessReward", max_episode_steps=5, disable_env_checker=True
    )
