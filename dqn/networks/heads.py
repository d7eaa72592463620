"""Heads: how the outputs of an action become its Q-value."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn


class Head(Protocol):
    """Turns the outputs of the last layer, `num_outputs` for each action, into Q-values."""

    @property
    def num_outputs(self) -> int:
        """Outputs of an action, N."""

    @property
    def is_mean(self) -> bool:
        """Whether a Q-value is the mean of its outputs, which is then folded into the last layer."""

    def q_values(self, outputs: Tensor) -> Tensor:
        """Q-values `[...]` of outputs `[..., N]`."""

    def module(self) -> nn.Module:
        """`q_values` as a module: `[B, actions x N] -> [B, actions]`; not called if `is_mean`."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A Q-value is the mean of its outputs: the value itself, or the quantiles of QR-DQN (Dabney et al., 2018)."""

    num_outputs: int = 1
    is_mean: ClassVar[bool] = True

    def q_values(self, outputs: Tensor) -> Tensor:
        """As in `Head`."""
        return outputs.mean(-1)

    def module(self) -> nn.Module:
        """As in `Head`."""
        return nn.Identity()


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """C51 (Bellemare et al., 2017): the outputs are logits of evenly spaced returns, whose mean is the Q-value."""

    num_outputs: int
    low: float
    """Return of the first atom."""
    high: float
    """Return of the last atom."""
    is_mean: ClassVar[bool] = False

    def atoms(self, device: torch.device | None = None) -> Tensor:
        """The return of each atom `[N]`."""
        return torch.linspace(self.low, self.high, self.num_outputs, device=device)

    def projected(self, returns: Tensor, probabilities: Tensor) -> Tensor:
        """Probabilities `[..., N]` of the atoms, given those of any returns `[..., M]`.

        Each return shares its probability between its two neighbours among the atoms, by its distance to them. Returns
        beyond the last atoms count as these.
        """
        spacing = (self.high - self.low) / (self.num_outputs - 1)
        position = ((returns - self.low) / spacing).clamp(0, self.num_outputs - 1)
        below = position.long().clamp_max(self.num_outputs - 2)
        above = probabilities * (position - below)
        atoms = torch.zeros(*probabilities.shape[:-1], self.num_outputs, device=probabilities.device)
        return atoms.scatter_add_(-1, below, probabilities - above).scatter_add_(-1, below + 1, above)

    def q_values(self, outputs: Tensor) -> Tensor:
        """As in `Head`."""
        return outputs.softmax(-1) @ self.atoms(outputs.device)

    def module(self) -> nn.Module:
        """As in `Head`."""
        return nn.Sequential(nn.Unflatten(1, (-1, self.num_outputs)), nn.Softmax(-1), Expectation(self.atoms()))


class Expectation(nn.Module):
    """The mean `[...]` of values `[N]` under probabilities `[..., N]`."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self, probabilities: Tensor) -> Tensor:
        """The mean under each distribution."""
        return probabilities @ self.values
