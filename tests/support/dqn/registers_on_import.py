"""Registers an environment when it is imported, as packages of environments do."""

import gymnasium as gym

gym.register(
    "RegisteredOnImport-v0", "tests.support.dqn.probes:EndlessReward", max_episode_steps=5, disable_env_checker=True
)
