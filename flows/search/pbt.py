"""Population-based training (Jaderberg et al., 2017): who does badly goes on as a changed copy of one who does well."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from dqn.config import DQNConfig
from dqn.hyperparameters import HyperParameters
from dqn.training.state import TrainingState
from flows.search.spaces import Range, Space

SHARE: Final = 0.2
"""Of the members that copy, and of those they copy from: truncation selection (section 4.1 there)."""
_FACTORS: Final = (0.8, 1.25)
_STEP: Final = 0.2

_SEARCHED: Final = {field.name for field in dataclasses.fields(HyperParameters)} - {"initial_q"}


def evolve(state: TrainingState, returns: Sequence[float], space: Space, *, seed: int) -> None:
    """Let the worst fifth of a population take over networks, moments and hyper-parameters of members of the best.

    What they took over they change. Replay buffers stay: they hold what the member itself lived through. What shapes
    tensors stays too.

    Args:
        state: the population; agents that diverged have left it.
        returns: `[K]`, raw ones of the agents in training.
        space: within which hyper-parameters are changed.
        seed: of who copies whom, and of the changes.
    """
    count = int(len(returns) * SHARE)
    if not count:
        return
    generator = np.random.default_rng(seed)
    order = np.argsort(np.array(returns), kind="stable")
    losers, winners = order[:count].tolist(), generator.choice(order[-count:], count).tolist()
    config = state.config
    members, agents = [member_config(state, k) for k in range(config.num_agents)], state.agents.tolist()
    for loser, winner in zip(losers, winners, strict=True):
        members[agents[loser]] = perturbed(members[agents[winner]], space, generator)
    state.learner.copy(torch.tensor(winners), torch.tensor(losers))
    state.adopt(HyperParameters.of(members))


def member_config(state: TrainingState, k: int) -> DQNConfig:
    """What member k trains by now."""
    return state.hyperparameters.agent(k, state.config)


def perturbed(config: DQNConfig, space: Space, generator: np.random.Generator) -> DQNConfig:
    """A configuration with every searched hyper-parameter a step up or down, within its range.

    A step is a factor of 0.8 or 1.25 where the range is even in the logarithm, and a fifth of the range elsewhere.
    """
    values: dict[str, Any] = {}
    for name, dimension in space.dimensions.items():
        if not isinstance(dimension, Range) or name not in _SEARCHED:
            continue
        up = bool(generator.integers(2))
        value = float(getattr(config, name))
        value = (
            value * _FACTORS[up] if dimension.log else value + (2 * up - 1) * _STEP * (dimension.high - dimension.low)
        )
        value = min(max(value, dimension.low), dimension.high)
        values[name] = round(value) if dimension.whole else value
    return space.configuration(config, values)
