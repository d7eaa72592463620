"""An environment with a reset that never returns, for servers that admit it."""

import threading
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Hanging(CartPoleEnv):
    """CartPole with a reset that never returns."""

    def reset(self, **options: Any) -> Any:
        threading.Event().wait()


gym.register("Hanging-v0", f"{__name__}:Hanging", max_episode_steps=500)
