"""Episodic returns of the greedy policies of a population."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dqn.environments.masks import Mask
from dqn.environments.spec import Environment, environment_spec, has_own_vector
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.experience.exploration import epsilon_greedy
from dqn.experience.masking import masked
from dqn.networks.population import QNetworks, greedy_action

_OBJECTS = 256


@torch.no_grad()
def greedy_returns(
    networks: QNetworks,
    environment: str | Environment,
    world: World | Sequence[World] = NOMINAL,
    *,
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    max_episode_steps: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Undiscounted returns `[A, episodes]` of the greedy policies, all episodes in parallel.

    `world` is one for all agents, or a sequence of one for all or one per agent, `[A]`; in CartPole the k-th episodes
    of agents with a world each begin in the same state. With `epsilon`, that fraction of the actions is random. If each
    sub-environment is a separate object, only a few agents play at a time, because a LunarLander takes 7 MB.
    `on_progress` is called with the number of finished agents.
    """
    A = networks.num_agents
    worlds = (world,) if isinstance(world, World) else tuple(world)
    at_once = A if has_own_vector(environment_spec(environment)) else max(1, _OBJECTS // episodes)
    returns = []
    for first in range(0, A, at_once):
        some = networks.select(torch.arange(first, min(first + at_once, A)))
        first_seed = seed + first * episodes
        act = acting(some, episodes=episodes, seed=first_seed, epsilon=epsilon)
        rows = some.num_agents * episodes
        played = episodic_returns(
            act,
            environment,
            worlds if len(worlds) == 1 else worlds[first : first + some.num_agents],
            num_episodes=rows,
            seed=first_seed,
            max_episode_steps=max_episode_steps,
        )
        returns.append(torch.from_numpy(played).view(some.num_agents, episodes))
        on_progress(first + some.num_agents)
    return torch.cat(returns)


def acting(networks: QNetworks, *, episodes: int, seed: int, epsilon: float = 0.0) -> Act:
    """A policy for the observations of A agents' episodes `[A, episodes]`, flattened to rows.

    The number of rows may be a multiple of A x episodes; each further group of rows again starts with agent 0.
    """
    disturbance = torch.full((networks.num_agents,), epsilon)
    generator = torch.Generator().manual_seed(seed)

    def by_agent(rows: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(rows).view(-1, networks.num_agents, episodes, rows[0].size)
        return tensor.transpose(0, 1).flatten(1, 2)

    def act(observation: npt.NDArray[np.float32], mask: Mask | None = None) -> npt.NDArray[np.integer]:
        q_values = networks(by_agent(observation).to(networks.device)).cpu()
        allowed = None if mask is None else by_agent(mask)
        if epsilon:
            action = epsilon_greedy(q_values, disturbance, generator, mask=allowed)
        else:
            action = greedy_action(masked(q_values, allowed))
        return action.view(networks.num_agents, -1, episodes).transpose(0, 1).flatten().numpy()

    return act
