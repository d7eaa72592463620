"""What agents learned on their way: their networks after ever more updates, from untrained on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from dqn.config import DQNConfig
from dqn.networks.population import QNetworks

MOST: Final = 29
_GROWTH: Final = 1.25
"""An agent that is accepted after an eighth of its budget has passed twenty of them."""


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """The networks that would be evaluated at one moment."""

    updates: int
    environment_steps: int
    agents: Tensor
    """`[K]`, who was in training"""
    networks: QNetworks
    """theirs"""

    def of(self, agent: int) -> QNetworks:
        """The network of one agent, of those that were in training."""
        return self.networks.select((self.agents == agent).nonzero().squeeze(1))

    def state_dict(self) -> dict[str, Any]:
        """As plain data and tensors."""
        return {**vars(self), "networks": self.networks.state_dict()}


def milestone_due(config: DQNConfig, updates: int) -> bool:
    """Whether networks are kept after this many updates: each time that a quarter more have been made."""
    return updates in _schedule(config.max_updates)


def number_of_milestones(config: DQNConfig) -> int:
    """How many an agent has that stays to the end of its budget."""
    return len(_schedule(config.max_updates))


def load_milestones(states: Sequence[dict[str, Any]], like: QNetworks) -> list[Milestone]:
    """Inverse of `Milestone.state_dict`, of networks of the population `like`."""
    milestones = []
    for state in states:
        networks = like.select(state["agents"])
        networks.load_state_dict(state["networks"])
        milestones.append(Milestone(**{**state, "networks": networks}))
    return milestones


@functools.cache
def _schedule(max_updates: int) -> frozenset[int]:
    return frozenset(round(max_updates * _GROWTH**-n) for n in range(MOST - 1)) - {max_updates} | {0}
