"""Vector environments that are played and compared."""

import torch

from dqn.experience.transitions import Transition
from dqn.experience.vector import VectorEnvironment


def make(env_id: str, *, num_agents: int = 3, num_envs: int = 4, seed: int = 0) -> VectorEnvironment:
    return VectorEnvironment(env_id, num_agents=num_agents, num_envs=num_envs, seed=seed)


def play(environment: VectorEnvironment, steps: int, seed: int = 0) -> list[Transition]:
    generator = torch.Generator().manual_seed(seed)
    shape = (environment.num_agents, environment.num_envs)
    return [environment.step(torch.randint(environment.num_actions, shape, generator=generator)) for _ in range(steps)]


def same(first: list[Transition], second: list[Transition]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("observation", "reward", "next_observation", "terminated", "truncated", "valid")
    )
