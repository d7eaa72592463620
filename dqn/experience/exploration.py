"""Epsilon schedules and epsilon-greedy action selection."""

from collections.abc import Callable

import torch
from torch import Tensor

from dqn.config import ConfigError
from dqn.experience.masking import allows, masked, random_action
from dqn.hyperparameters import Value
from dqn.networks.population import greedy_action

Exploration = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Exploration of one's own: `exploration(q_values, epsilon, generator)` returns actions `[A, E]`, int64.

`q_values` are `[A, E, actions]`, with `MASKED_Q` for actions that an action mask forbids, and `epsilon` `[A]` is the
configuration's schedule. Every draw has to be from `generator`, so that a resumed training draws the same.
"""


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


def require_actions(action: object, q_values: Tensor, mask: Tensor | None) -> Tensor:
    """Check that an exploration of one's own returned an action for each sub-environment that `mask` allows.

    Raises:
        ConfigError: if it did not.
    """
    shape, num_actions = tuple(q_values.shape[:-1]), q_values.shape[-1]
    expected = f"exploration must give an action from 0 to {num_actions - 1} for each sub-environment, int64 {[*shape]}"
    if not isinstance(action, Tensor):
        raise ConfigError(f"{expected}, got {type(action).__name__}")
    if action.shape != shape or action.dtype != torch.int64:
        raise ConfigError(f"{expected}, got {str(action.dtype).removeprefix('torch.')} {list(action.shape)}")
    if bool(((action < 0) | (action >= num_actions)).any()):
        raise ConfigError(f"{expected}, got {int(action.min())} to {int(action.max())}")
    if mask is not None and not bool(allows(mask, action).all()):
        raise ConfigError(f"{expected}, got one that the action mask forbids")
    return action
