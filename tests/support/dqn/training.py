"""Trainings that are compared."""

from collections.abc import Callable

import torch

from dqn.config import DQNConfig
from dqn.networks.population import QNetworks
from dqn.training.result import TrainingResult

Make = Callable[..., DQNConfig]


def equal(first: TrainingResult, second: TrainingResult) -> bool:
    def tensors(networks: QNetworks) -> list[torch.Tensor]:
        return list(networks.state_dict().values())

    def way(result: TrainingResult) -> list[torch.Tensor]:
        numbers = [torch.tensor((kept.updates, kept.environment_steps)) for kept in result.milestones]
        return [*numbers, *(tensor for kept in result.milestones for tensor in (kept.agents, *tensors(kept.networks)))]

    pairs = zip(
        [*tensors(first.best), *tensors(first.final), *first.metrics.state_dict().values(), *way(first)],
        [*tensors(second.best), *tensors(second.final), *second.metrics.state_dict().values(), *way(second)],
        strict=True,
    )
    return first.agents == second.agents and all(torch.equal(a, b) for a, b in pairs)
