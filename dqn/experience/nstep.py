"""n-step returns."""

from typing import Any

import torch
from torch import Tensor

from dqn.experience.transitions import Batch, Transition
from dqn.hyperparameters import Value


class NStepAccumulator:
    """Sums rewards over n steps, or up to the end of the episode (Sutton, 1988).

    Each valid step starts a transition, which is returned n - 1 steps later. Memory therefore contains the last n
    starts. Transitions that reach the end of their episode wait unchanged; none contains rewards of the next episode.
    """

    def __init__(
        self,
        *,
        n_step: int,
        gamma: Value,
        reward_scale: Value = 1.0,
        bootstrap_on_truncation: bool,
        num_agents: int,
        num_envs: int,
        obs: int,
        dtype: torch.dtype = torch.float32,
        mask: int = 0,
    ) -> None:
        """`mask` is the number of actions of an environment with action masks, and 0 without."""
        self._n_step = n_step
        self._gamma = _of_each_start(gamma)
        self._reward_scale = _of_each_start(reward_scale)
        self._bootstrap_on_truncation = bootstrap_on_truncation
        shape = (n_step, num_agents, num_envs)
        self._observation = torch.zeros(*shape, obs, dtype=dtype)
        self._next_observation = torch.zeros(*shape, obs, dtype=dtype)
        self._action = torch.zeros(shape, dtype=torch.int64)
        self._reward = torch.zeros(shape)
        self._weight = torch.zeros(shape)  # gamma^k of the next reward; 0 after the episode's end
        self._discount = torch.zeros(shape)
        self._valid = torch.zeros(shape, dtype=torch.bool)
        self._next_mask = torch.zeros(*shape, mask, dtype=torch.bool) if mask else None
        self._steps = 0

    def push(self, transition: Transition) -> tuple[Batch, Tensor]:
        """Add one step of every sub-environment; return the transitions that started n - 1 steps ago.

        Returns:
            A batch `[A, E, ...]` and a mask `[A, E]` of its valid entries, all False in the first n - 1 steps.
        """
        slot = self._steps % self._n_step
        self._steps += 1
        self._observation[slot] = transition.observation
        self._action[slot] = transition.action
        self._reward[slot] = 0.0
        self._weight[slot] = transition.valid.float()
        self._valid[slot] = transition.valid

        # The next observation of an ongoing transition is always the newest one; it is stored only at an episode's end.
        agent, env = (transition.terminated | transition.truncated).nonzero(as_tuple=True)
        step, ended = (self._weight[:, agent, env] > 0).nonzero(as_tuple=True)
        agent, env = agent[ended], env[ended]
        self._reward.addcmul_(self._weight, self._reward_scale * transition.reward)
        self._weight *= self._gamma
        bootstrap = ~transition.terminated[agent, env]
        if not self._bootstrap_on_truncation:
            bootstrap &= ~transition.truncated[agent, env]
        self._next_observation[step, agent, env] = transition.next_observation[agent, env]
        self._discount[step, agent, env] = self._weight[step, agent, env] * bootstrap
        self._weight[step, agent, env] = 0.0
        if self._next_mask is not None and transition.next_mask is not None:
            self._next_mask[step, agent, env] = transition.next_mask[agent, env]

        oldest = self._steps % self._n_step
        ongoing = self._weight[oldest] > 0
        next_mask = None
        if self._next_mask is not None and transition.next_mask is not None:
            next_mask = torch.where(ongoing.unsqueeze(-1), transition.next_mask, self._next_mask[oldest])
        batch = Batch(
            observation=self._observation[oldest],
            action=self._action[oldest],
            reward=self._reward[oldest],
            next_observation=torch.where(
                ongoing.unsqueeze(-1), transition.next_observation, self._next_observation[oldest]
            ),
            discount=torch.where(ongoing, self._weight[oldest], self._discount[oldest]),
            next_mask=next_mask,
        )
        return batch, self._valid[oldest]

    def select(self, agents: Tensor) -> None:
        """Keep only the pending transitions of `agents`, an index tensor `[K]`."""
        for name, value in self._tensors().items():
            setattr(self, name, value[:, agents])

    def state_dict(self) -> dict[str, Any]:
        """Pending transitions."""
        return {"steps": self._steps, **self._tensors()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._steps = state["steps"]
        for name in self._tensors():
            setattr(self, name, state[name])

    def clear(self) -> None:
        """Discard the pending transitions."""
        self._valid.zero_()

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def _of_each_start(value: Value) -> Value:
    """The value in a shape that broadcasts to `[n, A, E]`."""
    return value.float().view(1, -1, 1) if isinstance(value, Tensor) else value
