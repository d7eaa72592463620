"""Gymnasium's vector CartPole with the same numbers, at half the time per step. Torch-free."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

CARTPOLES: Final = "dqn.environments.cartpole:CartPoles"
"""Entry point for a Gymnasium registration."""


class CartPoles(CartPoleVectorEnv):
    """Gymnasium's class with a faster `step`: it does not check actions, and skips the reset code if no episode ended.

    100 sub-environments take 23 microseconds instead of 49, 2,048 take 81 instead of 112.
    """

    def step(
        self, action: npt.NDArray[np.integer[Any]]
    ) -> tuple[
        npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
    ]:
        """Take actions `[N]`: Gymnasium's equations and Euler integration, with the same attributes afterwards."""
        assert self.state is not None, "reset before the first step"
        _, x_dot, theta, theta_dot = self.state
        cos, sin = np.cos(theta), np.sin(theta)
        force = (2 * action - 1) * self.force_mag
        temp = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        inertia = self.length * (4.0 / 3.0 - self.masspole * np.square(cos) / self.total_mass)
        theta_acc = (self.gravity * sin - cos * temp) / inertia
        x_acc = temp - self.polemass_length * theta_acc * cos / self.total_mass
        state: npt.NDArray[np.float64] = self.state + self.tau * np.array((x_dot, x_acc, theta_dot, theta_acc))
        terminated = (np.abs(state[0]) > self.x_threshold) | (np.abs(state[2]) > self.theta_threshold_radians)
        self.steps += 1
        truncated = self.steps >= self.max_episode_steps
        reward = np.ones(self.num_envs, dtype=np.float32)
        resetting = self.prev_done
        if resetting.any():
            count = np.count_nonzero(resetting)
            state[:, resetting] = self.np_random.uniform(low=self.low, high=self.high, size=(4, count))
            self.steps[resetting] = 0
            reward[resetting] = 0.0
            terminated &= ~resetting
            truncated &= ~resetting
        self.state = state
        self.prev_done = terminated | truncated
        return state.T.astype(np.float32), reward, terminated, truncated, {}
