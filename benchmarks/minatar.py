"""MinAtar by the preset `minatar`: a population's greedy returns, and those with some random actions.

    python -m benchmarks.minatar [--game Breakout] [--body conv] [--seeds 16] [--frames 1000000]

Needs the package minatar, which is not among the requirements. Each agent plays 100 episodes with the network that
would be registered; the operating system draws their seeds after training. Schedules shrink with the number of frames.
One thread; a row is added to `results/minatar.json`.
"""

import argparse
import dataclasses
import json
import secrets
from typing import Any, Final

import torch

from benchmarks.contestants import EPISODES
from benchmarks.harness import RESULTS, table, write
from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.presets import PRESETS
from dqn.training.loop import train
from dqn.training.machine import torch_threads

EPSILONS: Final = (0.0, 0.05, 0.1)
"""Published returns of MinAtar are of training, with a tenth of the actions random."""


def main() -> None:
    """Train, print all rows so far and write them."""
    preset = PRESETS["minatar"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--body", choices=["mlp", "conv"], default="mlp")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--frames", type=int, default=preset.num_envs * preset.max_updates)
    arguments = parser.parse_args()
    config = dataclasses.replace(
        of_frames(preset, arguments.frames),
        env_id=f"minatar.gym:MinAtar/{arguments.game}-v1",
        body=arguments.body,
        num_agents=arguments.seeds,
        seed=secrets.randbits(31),
    )
    path = RESULTS / "minatar.json"
    rows = [*(json.loads(path.read_text())["rows"] if path.exists() else []), row(config)]
    print(table(rows))
    print(f"written to {write('minatar', rows)}")


def of_frames(config: DQNConfig, frames: int) -> DQNConfig:
    """A configuration with a budget of so many steps of each agent, and its schedules in proportion."""
    share = frames / (config.num_envs * config.max_updates)
    names = (
        "max_updates",
        "eval_start",
        "eval_interval",
        "epsilon_decay_updates",
        "learning_rate_decay_updates",
    )
    return dataclasses.replace(config, **{name: max(1, round(share * getattr(config, name))) for name in names})


def row(config: DQNConfig) -> dict[str, Any]:
    """A population, with the interquartile mean of its agents' mean returns and its 95% bootstrap interval."""
    result = train(config)
    found: dict[str, Any] = {
        "game": config.env_id.rpartition("/")[2],
        "body": config.body,
        "agents": config.num_agents,
        "frames": config.num_envs * config.max_updates,
        "CPU-s an agent": result.cpu_seconds / config.num_agents,
    }
    with torch.no_grad(), torch_threads(1):
        for epsilon in EPSILONS:
            seed = secrets.randbits(28)
            played = greedy_returns(result.best, config.environment, episodes=EPISODES, seed=seed, epsilon=epsilon)
            returns = played.numpy().mean(1)
            found[f"mean return, epsilon {epsilon:g}"] = float(returns.mean())
            if not epsilon:
                found["IQM return"] = interquartile_mean(returns)
                found["low"], found["high"] = bootstrap_interval(returns, seed=0)
    return found


if __name__ == "__main__":
    main()
