"""Milestones: an agent's network after geometrically growing numbers of updates, from untrained on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from dqn.networks.population import QNetworks

MOST: Final = 29
_GROWTH: Final = 1.25
"""An agent that is accepted after an eighth of its budget has twenty milestones."""


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """The evaluated networks of the agents in training after a number of updates."""

    updates: int
    environment_steps: int
    agents: Tensor
    """`[K]`, the agents in training"""
    networks: QNetworks
    """Networks of those K agents."""

    def of(self, agent: int) -> QNetworks:
        """The network of one of `agents`."""
        return self.networks.select((self.agents == agent).nonzero().squeeze(1))

    def state_dict(self) -> dict[str, Any]:
        """As plain data and tensors."""
        return {**vars(self), "networks": self.networks.state_dict()}


def load_milestones(states: Sequence[dict[str, Any]], like: QNetworks) -> list[Milestone]:
    """Inverse of `Milestone.state_dict`; `like` is a population of A networks of the same shape."""
    milestones = []
    for state in states:
        networks = like.select(state["agents"])
        networks.load_state_dict(state["networks"])
        milestones.append(Milestone(**{**state, "networks": networks}))
    return milestones


@functools.cache
def milestones_due(max_updates: int) -> frozenset[int]:
    """Updates at which an agent with this budget has a milestone; each has 1.25 times the updates of the one before."""
    return frozenset(round(max_updates * _GROWTH**-n) for n in range(MOST - 1)) - {max_updates} | {0}
