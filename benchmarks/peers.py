"""Stable-Baselines3's DQN and QR-DQN with the settings that rl-baselines3-zoo publishes, untouched."""

import time
from importlib import import_module
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.evaluation.returns import Act
from dqn.training.machine import torch_threads

RL_ZOO: Final[dict[str, dict[str, Any]]] = {
    "CartPole-v1": {
        "total_timesteps": 50_000,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
    },
    "MountainCar-v0": {
        "total_timesteps": 120_000,
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07,
    },
    **{
        env_id: {
            "total_timesteps": 100_000,
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
        }
        for env_id in ("Acrobot-v1", "LunarLander-v3")
    },
}
"""hyperparams/dqn.yml of rl-baselines3-zoo, April 2026; every network has two hidden layers of 256."""

QUANTILES: Final = {"Acrobot-v1": 25}
"""hyperparams/qrdqn.yml, which has the same settings otherwise."""

PUBLISHED: Final = {"Acrobot-v1": -76.6, "MountainCar-v0": -100.8, "LunarLander-v3": 154.4}
"""Mean returns of the DQN agents that rl-baselines3-zoo publishes; the last one is of LunarLander-v2."""
PUBLISHED_QR_DQN: Final = -69.1
"""Of its QR-DQN agent on Acrobot-v1."""


def stable_baselines3(env_id: str, seed: int, *, quantiles: int = 0) -> tuple[Act, float]:
    """Train one agent on one thread; returns its greedy policy and the CPU-seconds of training.

    With `quantiles` it is QR-DQN, which is in `sb3-contrib`.
    """
    algorithm: Any = (
        import_module("sb3_contrib").QRDQN if quantiles else import_module("stable_baselines3").DQN  # both are optional
    )
    network = {"net_arch": [256, 256], **({"n_quantiles": quantiles} if quantiles else {})}
    settings = dict(RL_ZOO[env_id])
    steps = settings.pop("total_timesteps")
    with torch_threads(1):
        model = algorithm("MlpPolicy", env_id, seed=seed, device="cpu", policy_kwargs=network, **settings)
        before = time.process_time()
        model.learn(steps)
        cpu_seconds = time.process_time() - before

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
        # Named, because its type is known only if the package is installed.
        action: npt.NDArray[np.integer] = model.predict(observation, deterministic=True)[0]
        return action

    return act, cpu_seconds
