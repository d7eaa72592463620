"""What a step of the environment gives, and what a gradient update is made of."""

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
    """`[A, E, obs]`; the last of its episode where that ended, never the first of the next."""
    terminated: Tensor
    """`[A, E]`, bool"""
    truncated: Tensor
    """`[A, E]`, bool"""
    valid: Tensor
    """`[A, E]`, bool; false where a sub-environment was being reset and nothing else in the row means anything."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Transitions to learn from, B an agent, each over one or several environment steps."""

    observation: Tensor
    """`[A, B, obs]`"""
    action: Tensor
    """`[A, B]`, int64"""
    reward: Tensor
    """`[A, B]`, the discounted sum of the rewards on the way"""
    next_observation: Tensor
    """`[A, B, obs]`"""
    discount: Tensor
    """`[A, B]`, what the value of the next observation is worth: gamma^steps, and 0 after termination"""
    weight: Tensor | None = None
    """`[A, B]`, importance weights of prioritised replay; none means 1"""
    slot: Tensor | None = None
    """`[A, B]`, where a sampled transition lies in its agent's buffer"""
