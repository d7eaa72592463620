"""Heads: how the outputs of an action become its Q-value."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

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
