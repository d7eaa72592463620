"""The presets beyond CartPole: 16 seeds each, and one agent of Stable-Baselines3 with rl-zoo's settings.

    python -m benchmarks.environments [--only acrobot]

On Acrobot there is a row for QR-DQN too, where `sb3-contrib` is installed (`.venv/bin/pip install sb3-contrib`).
Each agent plays 100 episodes with the network that would be registered. The operating system draws their seeds after
training.
"""

import argparse
import dataclasses
import secrets
from importlib.util import find_spec
from typing import Any, Final, get_args

import numpy as np
import torch

from benchmarks.contestants import EPISODES, warm_up
from benchmarks.harness import table, write
from benchmarks.peers import PUBLISHED, PUBLISHED_QR_DQN, QUANTILES, RL_ZOO, stable_baselines3
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import episodic_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.presets import PRESETS, PresetName
from dqn.training.loop import train
from dqn.training.machine import torch_threads

SEEDS: Final = 16


def main() -> None:
    """Measure preset by preset, print its table and write `results/<preset>.json`."""
    choices = [name for name in get_args(PresetName) if PRESETS[name].env_id in PUBLISHED]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=choices, default=choices)
    arguments = parser.parse_args()
    warm_up()
    for preset in arguments.only:
        env_id = PRESETS[preset].env_id
        rows = [this_project(preset), rl_zoo(env_id)]
        if env_id in QUANTILES and find_spec("sb3_contrib"):
            rows.append(rl_zoo(env_id, quantiles=QUANTILES[env_id]))
        print(table(rows))
        print(f"written to {write(preset, rows)}", flush=True)


def this_project(preset: PresetName) -> dict[str, Any]:
    """A population of 16."""
    result = train(dataclasses.replace(PRESETS[preset], num_agents=SEEDS, seed=secrets.randbits(31)))
    env_id = result.config.env_id
    with torch.no_grad(), torch_threads(1):
        returns = greedy_returns(result.best, env_id, episodes=EPISODES, seed=secrets.randbits(28)).numpy().mean(1)
    low, high = bootstrap_interval(returns, seed=0)
    return {
        "environment": env_id,
        "who": "this project",
        "agents": SEEDS,
        "IQM return": interquartile_mean(returns),
        "low": low,
        "high": high,
        "published": PUBLISHED[env_id],
        "environment steps an agent": float(np.median([agent.environment_steps for agent in result.agents])),
        "CPU-s an agent": result.cpu_seconds / SEEDS,
    }


def rl_zoo(env_id: str, *, quantiles: int = 0) -> dict[str, Any]:
    """One agent of the peer, DQN or, with quantiles, QR-DQN."""
    act, cpu_seconds = stable_baselines3(env_id, secrets.randbits(31), quantiles=quantiles)
    mean = float(episodic_returns(act, env_id, num_episodes=EPISODES, seed=secrets.randbits(28)).mean())
    return {
        "environment": env_id,
        "who": "Stable-Baselines3, QR-DQN" if quantiles else "Stable-Baselines3",
        "agents": 1,
        "IQM return": mean,
        "low": float("nan"),
        "high": float("nan"),
        "published": PUBLISHED_QR_DQN if quantiles else PUBLISHED[env_id],
        "environment steps an agent": RL_ZOO[env_id]["total_timesteps"],
        "CPU-s an agent": cpu_seconds,
    }


if __name__ == "__main__":
    main()
