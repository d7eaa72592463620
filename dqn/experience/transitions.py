"""Environment steps, and the batches of a gradient update."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One environment step of every sub-environment of every agent."""

    observation: Tensor
    """`[A, E, obs]`"""
    action: Tensor
    """`[A, E]`, int64"""
    reward: Tensor
    """`[A, E]`"""
    next_observation: Tensor
    """`[A, E, obs]`; at the end of an episode its last observation, not the first of the next episode"""
    terminated: Tensor
    """`[A, E]`, bool"""
    truncated: Tensor
    """`[A, E]`, bool"""
    valid: Tensor
    """`[A, E]`, bool; False if the sub-environment was reset in this step: the other fields are then meaningless"""
    next_mask: Tensor | None = None
    """`[A, E, actions]`, bool, the actions allowed at `next_observation`; None without action masks"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B transitions per agent for a gradient update, each over one or several environment steps."""

    observation: Tensor
    """`[A, B, obs]`"""
    action: Tensor
    """`[A, B]`, int64"""
    reward: Tensor
    """`[A, B]`, discounted sum of the rewards of those steps"""
    next_observation: Tensor
    """`[A, B, obs]`"""
    discount: Tensor
    """`[A, B]`, factor of the next observation's value: gamma^steps, or 0 after termination"""
    next_mask: Tensor | None = None
    """`[A, B, actions]`, bool, the actions allowed at `next_observation`; None without action masks"""
    weight: Tensor | None = None
    """`[A, B]`, importance weights of prioritised replay; None for 1"""
    slot: Tensor | None = None
    """`[A, B]`, slot of a sampled transition in its agent's buffer"""
