"""Losses of one's own on probes with known values, learned through the whole training loop."""

import dataclasses
import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dqn.experience.transitions import Batch
from dqn.learning.losses import Loss, categorical, munchausen, quantile_huber
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Categorical, Mean
from dqn.networks.population import QNetworks
from dqn.training.loop import train
from tests.support.dqn.probes import QUICK


def trained(probe: str, loss: Loss, num_quantiles: int = 1) -> QNetworks:
    config = dataclasses.replace(QUICK, env_id=f"Probe{probe}-v0", num_quantiles=num_quantiles)
    return train(config, loss=loss).final


def observed(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1).expand(2, -1, 1)


@pytest.mark.slow
def test_quantiles_of_a_return_are_learned() -> None:
    networks = trained("RareWin", partial(quantile_huber, kappa=0.02), num_quantiles=5)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).expand(2, 1, 2, 5)  # at 0.1, 0.3, 0.5, 0.7 and 0.9
    torch.testing.assert_close(networks.outputs(observed(0.0)), expected, rtol=0, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "observations", "expected"),
    [
        ("ObservedReward", [-1.0, 1.0], [[-1.0, -1.0], [1.0, 1.0]]),
        ("DelayedReward", [0.0, 1.0], [[0.9, 0.9], [1.0, 1.0]]),
        ("ActionReward", [0.0], [[-1.0, 1.0]]),
    ],
)
def test_quantiles_of_a_certain_return_are_all_that_return(
    probe: str, observations: list[float], expected: list[list[float]]
) -> None:
    networks = trained(probe, partial(quantile_huber, kappa=0.1), num_quantiles=3)
    outputs = networks.outputs(observed(*observations))
    torch.testing.assert_close(outputs, torch.tensor(expected)[..., None].expand(2, -1, -1, 3), rtol=0.05, atol=0.07)


def constant(*outputs: float, num_quantiles: int = 1) -> QNetworks:
    """A network of one agent and two actions that gives the same whatever it observes."""
    bias = torch.tensor(outputs).view(1, -1, 1)
    body = MLP(observation_shape=(1,), hidden_sizes=())
    return QNetworks(
        [torch.zeros(1, len(outputs), 1)], [bias], torch.ones(1), body=body, head=Mean(num_outputs=num_quantiles)
    )


def transitions(*actions: int) -> Batch:
    """Each with reward 1 and discount 1/2."""
    shape = (1, len(actions))
    observation = torch.zeros(*shape, 1)
    return Batch(
        observation=observation,
        action=torch.tensor([actions]),
        reward=torch.ones(shape),
        next_observation=observation,
        discount=torch.full(shape, 0.5),
    )


def test_quantiles_are_weighed_by_their_midpoints_and_errors_by_huber() -> None:
    online = constant(9.0, 9.0, 0.0, 0.0, num_quantiles=2)  # prefers action 0, the target network action 1
    target = constant(1.0, 3.0, 0.0, 10.0, num_quantiles=2)  # so the returns are 1.5 and 2.5
    outputs = torch.tensor([[[[0.5, 2.0], [9.0, 9.0]], [[9.0, 9.0], [-5.0, 2.5]]]])
    actual = quantile_huber(outputs, transitions(0, 1), online, target, kappa=0.8)
    near, far = (0.25 * (0.48 + 1.28) + 0.25 * 0.125 + 0.75 * 0.125) / 2, (0.25 * (4.88 + 5.68) + 0.25 * 0.48) / 2
    torch.testing.assert_close(actual, torch.tensor([[near, far]]))


ATOMS = Categorical(num_outputs=5, low=-1.0, high=3.0)


def by_the_paper(reward: float, discount: float, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The projected distribution of algorithm 1, atom by atom, as it is written there."""
    spacing, projected = (ATOMS.high - ATOMS.low) / (ATOMS.num_outputs - 1), np.zeros(ATOMS.num_outputs)
    for j, probability in enumerate(probabilities):
        value = min(max(reward + discount * (ATOMS.low + j * spacing), ATOMS.low), ATOMS.high)
        position = (value - ATOMS.low) / spacing
        below, above = math.floor(position), math.ceil(position)
        if below == above:
            projected[below] += probability
        else:
            projected[below] += probability * (above - position)
            projected[above] += probability * (position - below)
    return projected


@pytest.mark.parametrize("reward", [-9.0, -1.0, 0.0, 0.3, 1.0, 2.7, 3.0, 50.0])
@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_c51_is_the_cross_entropy_with_the_projected_distribution(reward: float, discount: float) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 1, 2, 5, generator=generator)
    logits, body = torch.randn(1, 2, 5, 1, generator=generator), MLP(observation_shape=(1,), hidden_sizes=())
    online, target = (
        QNetworks([torch.zeros(1, 10, 1)], [bias.flatten(1, 2)], torch.ones(1), body=body, head=ATOMS)
        for bias in (logits, logits.flip(1))
    )
    batch = dataclasses.replace(
        transitions(1), reward=torch.full((1, 1), reward), discount=torch.full((1, 1), discount)
    )
    action = int(online(batch.next_observation).argmax())
    assert action != int(target(batch.next_observation).argmax()), "Double DQN's action is the online network's"
    following = target.outputs(batch.next_observation)[0, 0, action].double().softmax(0).numpy()
    projected = by_the_paper(reward, discount, following)
    assert projected.sum() == pytest.approx(1.0)
    expected = -(projected * np.log(outputs[0, 0, 1].double().softmax(0).numpy())).sum()
    assert categorical(outputs, batch, online, target).item() == pytest.approx(expected, rel=1e-4)


def test_c51_learns_the_distribution_of_returns() -> None:
    config = dataclasses.replace(QUICK, env_id="ProbeRareWin-v0", num_atoms=3, value_range=(0.0, 1.0))
    networks = train(config).final
    chances = networks.outputs(observed(0.0)).softmax(3)
    torch.testing.assert_close(chances, torch.tensor([0.75, 0.0, 0.25]).expand(2, 1, 2, 3), rtol=0, atol=0.1)
    torch.testing.assert_close(networks(observed(0.0)), torch.full((2, 1, 2), 0.25), rtol=0, atol=0.1)


def test_what_is_not_given_is_as_in_the_papers() -> None:
    outputs = torch.tensor([[[[0.7, 5.0], [9.0, 9.0]], [[9.0, 9.0], [-0.2, 0.3]]]])
    several = constant(1.0, 3.0, 0.0, 10.0, num_quantiles=2)
    data = transitions(0, 1)
    by_kappa = partial(quantile_huber, outputs, data, several, several)
    assert torch.equal(by_kappa(), by_kappa(kappa=1.0))
    near = constant(1.0, 1.01)  # so that neither action's bonus is the floor
    by_rates = partial(munchausen, outputs[..., :1], data, near, near)
    assert torch.equal(by_rates(), by_rates(alpha=0.9, temperature=0.03, floor=-1.0))
    far = constant(1.0, 9.0)
    by_floor = partial(munchausen, outputs[..., :1], data, far, far)
    assert torch.equal(by_floor(), by_floor(floor=-1.0))


@pytest.mark.parametrize("floor", [-3.0, -1.0])
def test_munchausen_adds_the_log_probability_and_the_soft_value(floor: float) -> None:
    outputs = torch.tensor([[[[0.7], [9.0]], [[9.0], [-0.2]]]])
    actual = munchausen(
        outputs, transitions(0, 1), constant(0.0, 0.0), constant(1.0, 3.0), alpha=0.5, temperature=2.0, floor=floor
    )
    policy = [math.exp(q / 2) / (math.exp(0.5) + math.exp(1.5)) for q in (1.0, 3.0)]
    value = sum(p * (q - 2 * math.log(p)) for p, q in zip(policy, (1.0, 3.0), strict=True))
    targets = [1 + 0.5 * max(2 * math.log(p), floor) + 0.5 * value for p in policy]
    torch.testing.assert_close(actual, torch.tensor([[(0.7 - targets[0]) ** 2, (-0.2 - targets[1]) ** 2]]))


@pytest.mark.parametrize(("temperature", "floor"), [(0.5, -1.0), (0.5, -0.2), (2.0, -1.0)])
def test_munchausen_values_of_equal_actions(temperature: float, floor: float) -> None:
    networks = trained("DelayedReward", partial(munchausen, alpha=0.9, temperature=temperature, floor=floor))
    bonus = 0.9 * max(-temperature * math.log(2), floor)
    last = 1 + bonus
    first = bonus + 0.9 * (last + temperature * math.log(2))
    expected = torch.tensor([[first, first], [last, last]]).expand(2, -1, -1)
    torch.testing.assert_close(networks(observed(0.0, 1.0)), expected, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_munchausen_widens_the_gap_between_actions() -> None:
    networks = trained("ActionReward", partial(munchausen, alpha=0.9, temperature=1.0, floor=-1.0))
    better = 1.0
    for _ in range(50):  # the worse action's bonus is the floor, the better one's depends on the gap
        better = 1 - 0.9 * math.log(1 + math.exp(-(better + 1.9)))
    assert better == pytest.approx(0.949, abs=1e-3)
    torch.testing.assert_close(
        networks(observed(0.0)), torch.tensor([-1.9, better]).expand(2, 1, 2), rtol=0.05, atol=0.05
    )
