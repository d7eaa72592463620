"""Epsilon schedules and epsilon-greedy action selection."""

import torch
from torch import Tensor

from dqn.experience.masking import masked, random_action
from dqn.hyperparameters import Value
from dqn.networks.population import greedy_action


def linear_epsilon(update: int, *, start: Value, end: Value, decay_updates: Value) -> Value:
    """Epsilon after `update` gradient updates, falling linearly from `start` to `end`; a number, or `[A]`."""
    progress: Value
    if isinstance(decay_updates, Tensor):
        progress = (update / decay_updates.clamp_min(1)).clamp_max(1.0).masked_fill(decay_updates == 0, 1.0)
    else:
        progress = min(update / decay_updates, 1.0) if decay_updates else 1.0
    return start + (end - start) * progress


def episode_epsilon(episodes: Tensor, *, start: Value, end: Value, decay: float) -> Tensor:
    """Epsilon `[A]` after `episodes` `[A]` finished episodes, falling by `decay` per episode, as in the article."""
    return torch.maximum(start - decay * episodes, torch.as_tensor(end))


def epsilon_greedy(
    q_values: Tensor,
    epsilon: Tensor,
    generator: torch.Generator,
    *,
    mask: Tensor | None = None,
    persistence: Value = 0.0,
    persisting: Tensor | None = None,
) -> Tensor:
    """Actions `[A, E]`: greedy for Q-values `[A, E, actions]`, uniformly random with probability epsilon `[A]`.

    Both kinds are among the actions that `mask` `[A, E, actions]` allows, without it among all.

    With `persistence`, an exploratory action is repeated in the next step with that probability (temporally extended
    epsilon-greedy: Dabney et al., 2021, with geometric durations). `persisting` `[A, E]` contains the exploratory
    action of the last step, -1 if it was greedy or is not allowed now; it is updated in place.
    """
    greedy = greedy_action(masked(q_values, mask))
    explore = torch.rand(greedy.shape, generator=generator) < epsilon.unsqueeze(-1)
    if mask is None:
        random = torch.randint(q_values.shape[-1], greedy.shape, generator=generator)
    else:
        random = random_action(mask, generator)
    if persisting is not None and (isinstance(persistence, Tensor) or persistence > 0):
        share = torch.as_tensor(persistence, dtype=torch.float32).unsqueeze(-1)
        repeated = (persisting >= 0) & (torch.rand(greedy.shape, generator=generator) < share)
        explore |= repeated
        random = torch.where(repeated, persisting, random)
        persisting.copy_(torch.where(explore, random, -1))
    return torch.where(explore, random, greedy)
