"""QR-DQN and Munchausen DQN beside Double DQN on LunarLander: the same preset, seeds and budget.

    python -m benchmarks.losses [--agents 4] [--updates 36000]

All learn from one-step returns, because Munchausen DQN has to. Each agent plays 100 episodes with the network that
would be registered. The operating system draws their seeds after training.
"""

import argparse
import dataclasses
import secrets
from functools import partial
from typing import Any, Final

import torch

from benchmarks.contestants import EPISODES, warm_up
from benchmarks.harness import table, write
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.learning.losses import Loss, munchausen, quantile_huber
from dqn.presets import PRESETS
from dqn.training.loop import train
from dqn.training.machine import torch_threads

PRESET: Final = PRESETS["lunarlander"]
# Rewards are scaled by 0.01, and so are these parameters, which were published for Atari's clipped rewards.
LOSSES: Final[dict[str, tuple[Loss | None, int]]] = {
    "Double DQN": (None, 1),
    "QR-DQN, 16 quantiles": (partial(quantile_huber, kappa=0.01), 16),
    "Munchausen DQN": (partial(munchausen, temperature=0.01, floor=-0.1), 1),
}


def main() -> None:
    """Train with each loss in turn, print the table and write it to `results/losses.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--updates", type=int, default=PRESET.max_updates)
    arguments = parser.parse_args()
    warm_up()
    seed = secrets.randbits(31)
    rows = []
    for name in LOSSES:
        rows.append(row(name, arguments.agents, arguments.updates, seed))
        print(table(rows), flush=True)
    print(f"written to {write('losses', rows)}")


def row(name: str, agents: int, updates: int, seed: int) -> dict[str, Any]:
    """A population trained with one loss."""
    loss, num_quantiles = LOSSES[name]
    config = dataclasses.replace(
        PRESET,
        seed=seed,
        num_agents=agents,
        num_quantiles=num_quantiles,
        n_step=1,
        max_updates=updates,
        learning_rate_decay_updates=updates,
        eval_start=updates // 2,
        eval_interval=updates // 4,
        acceptance_episodes=20,
    )
    result = train(config, loss=loss)
    with torch.no_grad(), torch_threads(1):
        returns = (
            greedy_returns(result.best, config.env_id, episodes=EPISODES, seed=secrets.randbits(28)).numpy().mean(1)
        )
    low, high = bootstrap_interval(returns, seed=0)
    return {
        "loss": name,
        "agents": agents,
        "updates": updates,
        "IQM return": interquartile_mean(returns),
        "low": low,
        "high": high,
        "CPU-s an agent": result.cpu_seconds / agents,
    }


if __name__ == "__main__":
    main()
