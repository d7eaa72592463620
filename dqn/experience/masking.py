"""Q-values and actions under action masks."""

import torch
from torch import Tensor

from dqn.environments.masks import MASKED_Q


def masked(q_values: Tensor, mask: Tensor | None) -> Tensor:
    """Q-values `[..., actions]`, `MASKED_Q` where `mask` `[..., actions]` forbids the action; None allows all."""
    return q_values if mask is None else q_values.masked_fill(~mask, MASKED_Q)


def random_action(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Actions `[...]`, uniform among those that `mask` `[..., actions]` allows; it must allow at least one."""
    count = mask.cumsum(-1)
    draw = torch.rand(mask.shape[:-1], dtype=torch.float64, generator=generator)
    return (count <= (draw * count[..., -1]).long().unsqueeze(-1)).sum(-1)


def allows(mask: Tensor, action: Tensor) -> Tensor:
    """Whether `mask` `[..., actions]` allows `action` `[...]`; a negative action is not allowed."""
    return mask.gather(-1, action.clamp_min(0).unsqueeze(-1)).squeeze(-1) & (action >= 0)
