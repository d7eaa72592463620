"""Registers an environment when it is asked to, as the package minatar does."""

import gymnasium as gym


def register_envs() -> None:
    """Make the environment known."""
    gym.register(
        "RegisteredOnCall-v0", "tests.support.dqn.probes:EndlessReward", max_episode_steps=5, disable_env_checker=True
    )
