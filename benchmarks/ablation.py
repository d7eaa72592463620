"""The effect of each difference between the article and the preset `cartpole`, with 16 seeds each.

    python -m benchmarks.ablation

Every variant differs from the preset in one respect, and all are evaluated early and often. The effect of a change
is measured in the updates that an agent needs until it is accepted. An agent that is never accepted counts with all its
updates. The article's preset is trained unchanged. The networks that would be registered are judged on 100 unseen
episodes each.
"""

import argparse
import dataclasses
import secrets
from typing import Any, Final

import numpy as np
import torch

from benchmarks.contestants import CEILING, ENV_ID, EPISODES, warm_up
from benchmarks.figures import ablation, curves
from benchmarks.harness import table, write
from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.presets import PRESETS
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult

SEEDS: Final = 16
TUNED: Final = "tuned"
ARTICLE: Final = "the article"

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    TUNED: {},
    "observations not scaled": {"observation_scale": ()},
    "rewards not scaled": {"reward_scale": 1.0, "initial_q": 200.0},
    "rewards not scaled, Huber loss": {"reward_scale": 1.0, "initial_q": 200.0, "loss": "huber"},
    "no optimistic start": {"initial_q": 0.0},
    "Double DQN": {"double_dqn": True},
    "targets copied every 10 episodes": {"tau": 0.0, "target_update_episodes": 10},
    "epsilon falls by 1/10,000 an episode": {"epsilon_decay_per_episode": 1e-4, "epsilon_end": 0.0},
    "one-step returns": {"n_step": 1},
    "learning rate 1e-4, constant": {
        "learning_rate": 1e-4,
        "learning_rate_end": 1e-4,
        "learning_rate_decay_updates": 0,
    },
    "one environment an agent": {"num_envs": 1},
    "batches of 32": {"batch_size": 32},
    "weights not averaged": {"average_rate": 0.0},
    "a time limit is an end": {"bootstrap_on_truncation": False},
}


def main() -> None:
    """Print the table, write `results/ablation.json` and both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[*VARIANTS, ARTICLE], help="variants to measure")
    arguments = parser.parse_args()
    warm_up()
    rows, results = [], {}
    for name in arguments.only:
        results[name] = train(configuration(name))
        rows.append({"variant": name, **judge(results[name])})
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    print(f"written to {write('ablation', rows)} and {ablation(rows)}")
    if ARTICLE in results:
        print(f"and {curves({TUNED: train(evaluated_often()), ARTICLE: results[ARTICLE]})}")


def configuration(name: str) -> DQNConfig:
    """The configuration of a variant. The article is evaluated often enough for a curve."""
    common: dict[str, Any] = {"num_agents": SEEDS, "seed": secrets.randbits(31)}
    if name == ARTICLE:
        return dataclasses.replace(PRESETS["article"], **common, eval_interval=500)
    return dataclasses.replace(PRESETS["cartpole"], **common, eval_start=200, eval_interval=50, **VARIANTS[name])


def evaluated_often() -> DQNConfig:
    """The preset, evaluated often enough for a curve. All agents train to the end."""
    often: dict[str, Any] = {"eval_start": 25, "eval_interval": 25, "eval_episodes": 20, "max_updates": 1_000}
    return dataclasses.replace(configuration(TUNED), **often, acceptance_return=None, acceptance_epsilon=0.0)


def judge(result: TrainingResult) -> dict[str, Any]:
    """Interquartile means of updates (with its interval) and return, and the number of agents that solve the task."""
    with torch.no_grad(), torch_threads(1):
        returns = greedy_returns(result.best, ENV_ID, episodes=EPISODES, seed=secrets.randbits(28)).numpy()
    updates = np.array([agent.updates for agent in result.agents], dtype=np.float64)
    low, high = bootstrap_interval(updates, seed=0)
    return {
        "IQM updates": interquartile_mean(updates),
        "low": low,
        "high": high,
        "solved": int((returns >= CEILING).all(1).sum()),
        "agents": len(returns),
        "IQM return": interquartile_mean(returns.mean(1)),
        "CPU-s an agent": result.cpu_seconds / len(returns),
    }


if __name__ == "__main__":
    main()
