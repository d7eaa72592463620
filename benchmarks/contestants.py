"""Contestants on CartPole-v1: this project, its fixed-budget variant, the article's loop and Stable-Baselines3.

Each trains once, and all are judged alike: a greedy policy solves the task if it returns 500 in each of 100 episodes.
The operating system draws their seeds after training.
"""

import dataclasses
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers import RL_ZOO, stable_baselines3
from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import episodic_returns
from dqn.presets import PRESETS, PresetName
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult

ENV_ID: Final = "CartPole-v1"
CEILING: Final = 500.0
EPISODES: Final = 100

FIXED_BUDGET: Final = dataclasses.replace(
    PRESETS["cartpole"],
    num_envs=128,
    replay_capacity=51_200,
    epsilon_end=0.3,
    epsilon_decay_updates=1_000,
    updates_per_step=2,
    learning_rate=5e-3,
    learning_rate_end=0.0,
    learning_rate_decay_updates=3_000,
    adam_betas=(0.9, 0.999),
    tau=0.1,
    average_rate=0.003,
    max_updates=3_000,
    eval_start=3_000,
    acceptance_return=None,
    acceptance_epsilon=0.0,
)
"""Nothing is selected: all agents train equally long, and the last averaged network of each is judged."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One training run, judged."""

    contestant: str
    seed: int
    cpu_seconds: float
    """Of training alone, without imports and without judging."""
    returns: npt.NDArray[np.float64]
    """`[A, episodes]` of its A agents"""
    steps: npt.NDArray[np.int64]
    """`[A]`, the environment steps that each agent learned from"""
    evaluation_steps: float = 0.0
    """Environment steps of the evaluations, an agent; not counted for peers."""

    @property
    def solved(self) -> int:
        """Number of agents that returned the maximum in every episode."""
        return int((self.returns >= CEILING).all(1).sum())


def this_project(seed: int, *, num_agents: int, preset: PresetName = "cartpole") -> Outcome:
    """A preset of CartPole, each agent judged by the network that would be registered."""
    name = "this project" if preset == "cartpole" else f"this project, {preset}"
    return _population(name, dataclasses.replace(PRESETS[preset], num_agents=num_agents), seed, "best")


def without_choosing(seed: int, *, num_agents: int) -> Outcome:
    """A fixed budget and the last network."""
    config = dataclasses.replace(FIXED_BUDGET, num_agents=num_agents)
    return _population("this project, last network", config, seed, "final")


def article(seed: int) -> Outcome:
    """The preset `article`: one agent, one environment, 1,500 episodes."""
    return _population("the article's loop", PRESETS["article"], seed, "final")


def rl_zoo(seed: int) -> Outcome:
    """Stable-Baselines3's DQN with rl-baselines3-zoo's settings for CartPole-v1."""
    act, cpu_seconds = stable_baselines3(ENV_ID, seed)
    with torch_threads(1):
        returns = episodic_returns(act, ENV_ID, num_episodes=EPISODES, seed=secrets.randbits(28))
    return Outcome(
        contestant="Stable-Baselines3, rl-zoo's settings",
        seed=seed,
        cpu_seconds=cpu_seconds,
        returns=returns[None],
        steps=np.array([RL_ZOO[ENV_ID]["total_timesteps"]]),
    )


def cpu_time(work: Callable[[], Any]) -> float:
    """CPU-seconds of this process that `work` takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def warm_up() -> None:
    """Train briefly, so that no measurement includes PyTorch's imports on first use."""
    train(dataclasses.replace(PRESETS["cartpole"], num_agents=1, max_updates=2))


def _population(contestant: str, config: DQNConfig, seed: int, judged: str) -> Outcome:
    results: list[TrainingResult] = []
    evaluation_steps = 0.0

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal evaluation_steps
        returns = greedy_returns(*arguments, **options)
        evaluation_steps += float(returns.sum())  # a step of CartPole returns 1
        return returns

    with patch("dqn.training.selection.greedy_returns", counted):
        cpu_seconds = cpu_time(lambda: results.append(train(dataclasses.replace(config, seed=seed))))
    with torch.no_grad(), torch_threads(1):
        returns = greedy_returns(
            getattr(results[0], judged), ENV_ID, episodes=EPISODES, seed=secrets.randbits(28)
        ).numpy()
    return Outcome(
        contestant=contestant,
        seed=seed,
        cpu_seconds=cpu_seconds,
        returns=returns,
        steps=np.array([agent.environment_steps for agent in results[0].agents]),
        evaluation_steps=evaluation_steps / config.num_agents,
    )
