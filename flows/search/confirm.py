"""The winner of a study on fresh seeds: the best of a thousand trials was also lucky."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.seeding import TEST, TRAINING, stream_seed
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from dqn.training.result import AgentResult
from flows.registry.returns import TEST_EPISODES, Returns

SEEDS: Final = 16
_FRESH: Final = 2**20
"""Stands for a shard in the seeds of the winner; no shard of a study has this number."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The winner's configuration, trained by agents that no decision was based on."""

    trial: int
    config: DQNConfig
    agents: tuple[AgentResult, ...]
    returns: Returns
    """`[A, episodes]` on test seeds, of the agents that did not diverge"""
    cpu_seconds: float

    @property
    def mean_return(self) -> float:
        """Interquartile mean over agents."""
        return interquartile_mean(self.returns.mean(1))

    @property
    def solved_fraction(self) -> float:
        """Share of agents that passed the acceptance test."""
        return float(np.mean([agent.solved for agent in self.agents]))

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        agents, episodes = len(self.agents), self.returns.shape[1]
        low, high = bootstrap_interval(self.returns.mean(1), seed=0)
        updates = interquartile_mean(np.array([a.updates for a in self.agents if a.diverged is None], dtype=np.float64))
        solved = sum(agent.solved for agent in self.agents)
        diverged = agents - len(self.returns)
        accepted = f"{diverged} diverged and count in no mean, " if diverged else ""
        accepted += f"{solved} of {agents} solved it, " if self.config.acceptance_return is not None else ""
        return (
            f"Trained anew on {agents} fresh seeds, trial {self.trial} returns {self.mean_return:.1f} ({low:.1f} to "
            f"{high:.1f}, interquartile mean with its 95% bootstrap interval) over {episodes} unseen episodes each; "
            f"{accepted}{updates:,.0f} updates an agent, {self.cpu_seconds / agents:.2f} CPU-seconds each."
        )


def fresh(config: DQNConfig, *, seed: int) -> DQNConfig:
    """The configuration with seeds that no shard of a sweep has used."""
    return dataclasses.replace(config, num_agents=SEEDS, seed=stream_seed(seed, TRAINING, _FRESH))


def confirm(trial: int, config: DQNConfig) -> Confirmation:
    """Train the winner's agents and play the best network of each on test seeds."""
    result = train(config)
    seed = stream_seed(config.seed, TEST, 0)
    with torch.no_grad(), torch_threads(config.num_threads):
        returns = greedy_returns(
            result.best, config.environment, config.world, episodes=TEST_EPISODES, seed=seed
        ).numpy()
    returns = returns[[agent.diverged is None for agent in result.agents]]
    return Confirmation(
        trial=trial, config=config, agents=result.agents, returns=returns, cpu_seconds=result.cpu_seconds
    )
