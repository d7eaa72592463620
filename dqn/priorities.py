"""Priorities of prioritised replay (Schaul et al., 2016), for the buffers of a population."""

from typing import Any

import torch
from torch import Tensor

_SMALLEST = 1e-6


class Priorities:
    """Proportional priorities (section 3.3): P(i) = p_i^alpha / sum, with p_i the size of the latest TD error.

    A transition that was never sampled has the greatest priority its agent has seen. A sample sums up all priorities
    instead of walking a tree: a few operations on `[A, capacity]`, cheaper than many small ones up to 10^5 transitions.
    """

    def __init__(self, *, num_agents: int, capacity: int, exponent: float) -> None:
        self._exponent = exponent
        self._scaled = torch.zeros(num_agents, capacity)  # p^alpha, 0 where nothing is stored
        self._greatest = torch.ones(num_agents)

    @property
    def nbytes(self) -> int:
        """Memory of the priorities in bytes."""
        return self._scaled.nbytes

    def insert(self, index: Tensor) -> None:
        """New transitions at `index` `[N]`, counted through all agents' buffers in order."""
        capacity = self._scaled.shape[1]
        self._scaled.view(-1)[index] = self._greatest[index // capacity]

    def sample(self, draws: Tensor, size: Tensor, importance_exponent: float) -> tuple[Tensor, Tensor]:
        """Slots `[A, B]` for uniform draws `[A, B]` in [0, 1), and their importance weights.

        Weights are (N P(i))^-beta, divided by the batch's greatest (section 3.4), with N the agent's `size` `[A]`.
        """
        cumulative = self._scaled.cumsum(1, dtype=torch.float64)
        total = cumulative[:, -1:]
        slot = torch.searchsorted(cumulative, draws * total, right=True).clamp_max(self._scaled.shape[1] - 1)
        probability = self._scaled.gather(1, slot) / total
        weight = (probability * size.unsqueeze(1)).pow(-importance_exponent)
        return slot, (weight / weight.amax(1, keepdim=True)).float()

    def update(self, index: Tensor, td_error: Tensor) -> None:
        """The TD errors `[A, B]` of the transitions at `index` `[A, B]`, counted as in `insert`."""
        scaled = td_error.abs().clamp_min(_SMALLEST).pow(self._exponent)
        self._scaled.view(-1)[index] = scaled
        self._greatest = torch.maximum(self._greatest, scaled.amax(1))

    def select(self, agents: Tensor) -> None:
        """Keep the priorities of `agents`, an index tensor `[K]`."""
        self._scaled, self._greatest = self._scaled[agents], self._greatest[agents]

    def state_dict(self) -> dict[str, Any]:
        """All priorities."""
        return {"scaled": self._scaled, "greatest": self._greatest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._scaled, self._greatest = state["scaled"], state["greatest"]
