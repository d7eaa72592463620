"""TD targets under action masks."""

import dataclasses

import pytest
import torch

from dqn.config import ConfigError
from dqn.experience.transitions import Batch
from dqn.learning.losses import munchausen, quantile_huber, td_target
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.population import QNetworks

ONLINE, TARGET = (1.0, 9.0, 5.0, 7.0), (4.0, 8.0, 2.0, 6.0)


def constant(*outputs: float, num_quantiles: int = 1) -> QNetworks:
    """Networks whose outputs do not depend on the observation."""
    weight = torch.zeros(1, len(outputs), 1)
    bias = torch.tensor(outputs).view(1, -1, 1)
    body = MLP(observation_shape=(1,), hidden_sizes=())
    return QNetworks([weight], [bias], torch.ones(1), body=body, head=Mean(num_outputs=num_quantiles))


def batch(*masks: tuple[int, ...]) -> Batch:
    """One transition a mask, with reward 1 and discount 1/2, as after several steps or a truncation."""
    rows = len(masks)
    return Batch(
        observation=torch.zeros(1, rows, 1),
        action=torch.zeros(1, rows, dtype=torch.int64),
        reward=torch.ones(1, rows),
        next_observation=torch.zeros(1, rows, 1),
        discount=torch.full((1, rows), 0.5),
        next_mask=torch.tensor(masks, dtype=torch.bool).unsqueeze(0) if masks[0] else None,
    )


TABLE: list[tuple[tuple[int, ...], float, float]] = [
    # mask of the next state, the target network's maximum, its value of the online network's greedy action
    ((1, 1, 1, 1), 8.0, 8.0),
    ((1, 0, 1, 1), 6.0, 6.0),
    ((1, 0, 1, 0), 4.0, 2.0),
    ((1, 0, 0, 0), 4.0, 4.0),
    ((0, 0, 1, 0), 2.0, 2.0),
]


@pytest.mark.parametrize("double_dqn", [False, True])
def test_the_next_value_is_of_an_allowed_action(double_dqn: bool) -> None:
    values = [greedy if double_dqn else greatest for _, greatest, greedy in TABLE]
    target = td_target(
        batch(*(row[0] for row in TABLE)), online=constant(*ONLINE), target=constant(*TARGET), double_dqn=double_dqn
    )
    assert target.tolist() == [[1 + 0.5 * value for value in values]]


@pytest.mark.parametrize("double_dqn", [False, True])
def test_without_masks_every_action_counts(double_dqn: bool) -> None:
    target = td_target(batch(()), online=constant(*ONLINE), target=constant(*TARGET), double_dqn=double_dqn)
    assert target.tolist() == [[5.0]]


@pytest.mark.parametrize("double_dqn", [False, True])
def test_after_a_terminated_episode_the_value_is_nothing(double_dqn: bool) -> None:
    ended = dataclasses.replace(batch((1, 1, 1, 1)), discount=torch.zeros(1, 1))
    target = td_target(ended, online=constant(*ONLINE), target=constant(*TARGET), double_dqn=double_dqn)
    assert target.tolist() == [[1.0]]


def test_quantiles_are_of_an_allowed_action() -> None:
    """The error of quantiles that are right is nothing: reward 1 and half of the allowed action's return."""
    online = constant(2.0, 2.0, 9.0, 9.0, 0.0, 0.0, num_quantiles=2)
    target = constant(2.0, 2.0, 50.0, 50.0, 0.0, 0.0, num_quantiles=2)
    outputs = torch.full((1, 1, 3, 2), 2.0)
    assert quantile_huber(outputs, batch((1, 0, 1)), online, target).tolist() == [[0.0]]
    assert quantile_huber(outputs, batch((1, 1, 1)), online, target).item() > 10


def test_munchausen_does_not_learn_under_masks() -> None:
    networks = constant(*ONLINE)
    with pytest.raises(ConfigError, match=r"munchausen .* cannot learn under action masks"):
        munchausen(torch.zeros(1, 1, 4, 1), batch((1, 0, 1, 1)), networks, networks)
