"""Priorities of prioritised replay (Schaul et al., 2016) for the agents of a population."""

from typing import Any

import torch
from torch import Tensor

_SMALLEST = 1e-6


def leaves(capacity: int) -> int:
    """Number of leaves of an agent's sum tree: the smallest power of two that is at least `capacity`."""
    return 1 << (capacity - 1).bit_length()


class Priorities:
    """Proportional priorities (section 3.3): P(i) = p_i^alpha / sum_k p_k^alpha, where p_i is the last |TD error|.

    A new transition gets the greatest priority that its agent has had. Each agent has a binary sum tree (appendix
    B.2.1): node 1 is the total, node k is the sum of nodes 2k and 2k + 1, and the leaves are the transitions.
    """

    def __init__(self, *, num_agents: int, capacity: int, exponent: float) -> None:
        self._exponent = exponent
        self._capacity = capacity
        self._leaves = leaves(capacity)
        self._most = torch.finfo(torch.float32).max / self._leaves
        self._tree = torch.zeros(num_agents, 2 * self._leaves)  # p^alpha; 0 for empty slots
        self._greatest = torch.ones(num_agents)

    @property
    def nbytes(self) -> int:
        """Memory of the priorities in bytes."""
        return self._tree.nbytes

    def insert(self, index: Tensor) -> None:
        """Add new transitions at `index` `[N]`, where agent a's slot s has the index a x capacity + s."""
        self._set(index, self._greatest[index // self._capacity])

    def sample(self, draws: Tensor, importance_exponent: float) -> tuple[Tensor, Tensor]:
        """Slots `[A, B]` for uniform draws `[A, B]` in [0, 1), and their importance weights `[A, B]`.

        Weights are (N P(i))^-beta divided by the greatest of the batch (section 3.4). N and the sum of the priorities
        cancel.
        """
        rest, node = draws * self._tree[:, 1:2].double(), torch.ones_like(draws, dtype=torch.int64)
        while int(node[0, 0]) < self._leaves:
            left, right = self._tree.gather(1, 2 * node), self._tree.gather(1, 2 * node + 1)
            turn = (rest >= left) & (right > 0)  # rounding may leave `rest` above the sum: never enter an empty branch
            rest = torch.where(turn, rest - left, rest)
            node = 2 * node + turn
        slot = node - self._leaves
        weight = self._tree.gather(1, node).double().pow(-importance_exponent)
        return slot, (weight / weight.amax(1, keepdim=True)).float()

    def update(self, index: Tensor, td_error: Tensor) -> None:
        """Set the TD errors `[A, B]` of the transitions at `index` `[A, B]`, an index as in `insert`.

        NaN counts as 0. Large values are limited so that an agent's sum stays finite; otherwise the same transition
        would be sampled forever.
        """
        scaled = td_error.abs().nan_to_num(nan=0.0).clamp_min(_SMALLEST).pow(self._exponent).clamp_max(self._most)
        self._set(index.flatten(), scaled.flatten())
        self._greatest = torch.maximum(self._greatest, scaled.amax(1))

    def select(self, agents: Tensor) -> None:
        """Keep only the priorities of `agents`, an index tensor `[K]`."""
        self._tree, self._greatest = self._tree[agents], self._greatest[agents]

    def state_dict(self) -> dict[str, Any]:
        """All priorities."""
        stored = self._tree[:, self._leaves : self._leaves + self._capacity].contiguous()
        return {"scaled": stored, "greatest": self._greatest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._greatest = state["greatest"]
        self._tree = torch.zeros(len(self._greatest), 2 * self._leaves)
        self._tree[:, self._leaves : self._leaves + self._capacity] = state["scaled"]
        first = self._leaves // 2
        while first:
            self._tree[:, first : 2 * first] = (
                self._tree[:, 2 * first : 4 * first : 2] + self._tree[:, 2 * first + 1 : 4 * first : 2]
            )
            first //= 2

    def _set(self, index: Tensor, scaled: Tensor) -> None:
        """Set leaves and update their ancestors; `scaled` must be equal where `index` repeats."""
        tree = self._tree.view(-1)
        node = index // self._capacity * 2 * self._leaves
        position = index % self._capacity + self._leaves
        tree[node + position] = scaled
        for _ in range(self._leaves.bit_length() - 1):
            position = position // 2
            tree[node + position] = tree[node + 2 * position] + tree[node + 2 * position + 1]
