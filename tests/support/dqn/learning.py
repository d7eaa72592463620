"""Batches and networks of a population."""

import dataclasses

import torch

from dqn.config import DQNConfig
from dqn.experience.transitions import Batch
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks

CONFIG = DQNConfig(hidden_sizes=(16,), learning_rate=1e-2, target_update_interval=3)


def networks(num_agents: int = 3, first_seed: int = 0) -> QNetworks:
    seeds = range(first_seed, first_seed + num_agents)
    return QNetworks.initialised(seeds=seeds, body=MLP(observation_shape=(4,), hidden_sizes=(16,)), num_actions=2)


def batch(num_agents: int = 3, size: int = 32, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        observation=torch.randn(num_agents, size, 4, generator=generator),
        action=torch.randint(2, (num_agents, size), generator=generator),
        reward=torch.randn(num_agents, size, generator=generator),
        next_observation=torch.randn(num_agents, size, 4, generator=generator),
        discount=torch.rand(num_agents, size, generator=generator),
    )


def part_of(whole: Batch, agent: int) -> Batch:
    return rows_of(whole, torch.tensor([agent]))


def rows_of(whole: Batch, agents: torch.Tensor) -> Batch:
    values = {name: value[agents] for name, value in vars(whole).items() if value is not None}
    return dataclasses.replace(whole, **values)
