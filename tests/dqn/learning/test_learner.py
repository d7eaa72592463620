import copy
import dataclasses
from typing import Any, Literal

import pytest
import torch

from dqn.config import ConfigError
from dqn.experience.transitions import Batch
from dqn.learning.learner import Learner, clip_gradients
from dqn.learning.losses import require_loss, td_gradient, td_loss, td_target
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.population import QNetworks
from tests.support.dqn.learning import CONFIG, batch, networks, part_of, rows_of


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"double_dqn": False, "loss": "huber"},
        {"max_gradient_norm": 0.5},
        {"target_update_interval": 0, "tau": 0.1, "average_rate": 0.05, "learning_rate_decay_updates": 10},
    ],
    ids=["plain", "huber", "clipped", "polyak and averaged"],
)
def test_a_member_of_a_population_takes_the_steps_it_would_take_alone(variant: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **variant)
    population = Learner(config, networks())
    alone = [Learner(config, networks().select(torch.tensor([k]))) for k in range(3)]
    for step in range(10):
        whole = batch(seed=step)
        population.update(whole)
        for k, learner in enumerate(alone):
            learner.update(part_of(whole, k))
    for k, learner in enumerate(alone):
        for mine, theirs in zip(learner.evaluated.parameters(), population.evaluated.parameters(), strict=True):
            torch.testing.assert_close(mine[0], theirs[k], rtol=1e-4, atol=1e-6)


def test_agents_that_stay_go_on_as_if_no_one_had_left() -> None:
    whole, narrowed = Learner(CONFIG, networks()), Learner(CONFIG, networks())
    for learner in (whole, narrowed):
        learner.update(batch(seed=0))
    keep = torch.tensor([0, 2])
    narrowed.select(keep)
    for step in range(1, 5):
        data = batch(seed=step)
        whole.update(data)
        narrowed.update(rows_of(data, keep))
    for mine, theirs in zip(narrowed.online.parameters(), whole.online.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs[keep], rtol=1e-4, atol=1e-6)


class _Table(torch.nn.Module):
    """Q-values looked up by the observation's first entry."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.rows[observation[..., 0].long()]


@pytest.mark.parametrize(("double_dqn", "expected"), [(False, [1 + 0.9 * 8, 2.0]), (True, [1 + 0.9 * 3, 2.0])])
def test_td_targets(double_dqn: bool, expected: list[float]) -> None:
    # the target network prefers action 0 (value 8), the online network action 1, which the target values at 3
    target, online = _Table([[8.0, 3.0]]), _Table([[0.0, 1.0]])
    data = Batch(
        observation=torch.zeros(1, 2, 1),
        action=torch.zeros(1, 2, dtype=torch.int64),
        reward=torch.tensor([[1.0, 2.0]]),
        next_observation=torch.zeros(1, 2, 1),
        discount=torch.tensor([[0.9, 0.0]]),
    )
    actual = td_target(data, online=online, target=target, double_dqn=double_dqn)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, torch.tensor([expected]))


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_an_update_descends_the_mean_loss_of_its_batch(loss: Literal["squared", "huber"]) -> None:
    config = dataclasses.replace(CONFIG, loss=loss)
    learner, data = Learner(config, networks()), batch(size=8)
    online = networks().requires_grad_(True)
    target = td_target(data, online=online, target=networks(), double_dqn=config.double_dqn)
    q_value = online(data.observation).gather(-1, data.action.unsqueeze(-1)).squeeze(-1)
    torch.autograd.backward(td_loss(q_value - target, loss=loss).mean(1).sum())
    statistics = learner.update(data)
    torch.testing.assert_close(statistics.q_value, q_value.detach())
    torch.testing.assert_close(statistics.priority, (q_value - target).detach())
    torch.testing.assert_close(statistics.loss, td_loss(q_value - target, loss=loss).detach())
    for by_hand, by_autograd in zip(learner.online.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(by_hand.grad, by_autograd.grad)


def squared(outputs: torch.Tensor, data: Batch, online: QNetworks, target: QNetworks) -> torch.Tensor:
    """Double DQN's squared error, written independently of this learner."""
    action = online(data.next_observation).argmax(-1, keepdim=True)
    value: torch.Tensor = target(data.next_observation).gather(-1, action).squeeze(-1)
    q_value = outputs.squeeze(-1).gather(-1, data.action.unsqueeze(-1)).squeeze(-1)
    return (data.reward + data.discount * value - q_value).square()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_of_ones_own_learns_as_the_same_one_built_in(weighted: bool) -> None:
    weight = torch.rand(3, 32, generator=torch.Generator().manual_seed(1)) if weighted else None
    built_in, own = Learner(CONFIG, networks()), Learner(CONFIG, networks())
    for step in range(5):
        data = dataclasses.replace(batch(seed=step), weight=weight)
        expected, actual = built_in.update(data), own.update(data, squared)
        torch.testing.assert_close(actual.loss, expected.loss)
        torch.testing.assert_close(actual.q_value, expected.q_value)
        torch.testing.assert_close(actual.priority, expected.priority.square())
        assert not actual.priority.requires_grad
    for mine, theirs in zip(own.online.parameters(), built_in.online.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_loss_is_given_the_quantiles_of_every_action(dueling: bool) -> None:
    population = QNetworks.initialised(
        seeds=range(3),
        body=MLP(observation_shape=(4,), hidden_sizes=(16,)),
        num_actions=2,
        dueling=dueling,
        head=Mean(num_outputs=5),
    )
    learner, data, given = Learner(CONFIG, population), batch(size=8), []

    def loss(outputs: torch.Tensor, data: Batch, online: QNetworks, target: QNetworks) -> torch.Tensor:
        given.append(outputs.detach())
        return outputs[:, :, 0, 1].square() + outputs[:, :, 1, 4]

    statistics = learner.update(data, loss)
    assert torch.equal(given[0], population.outputs(data.observation))
    q_values = given[0].mean(-1)
    torch.testing.assert_close(population(data.observation), q_values)
    torch.testing.assert_close(statistics.q_value, q_values.gather(2, data.action.unsqueeze(2)).squeeze(2))
    population.requires_grad_(True)
    outputs = population.outputs(data.observation)
    torch.autograd.backward((outputs[:, :, 0, 1].square() + outputs[:, :, 1, 4]).mean(1).sum())
    for by_seam, by_autograd in zip(learner.online.parameters(), population.parameters(), strict=True):
        torch.testing.assert_close(by_seam.grad, by_autograd.grad)


def test_quantiles_without_a_loss_that_learns_them_are_refused() -> None:
    config = dataclasses.replace(CONFIG, num_quantiles=5)
    with pytest.raises(ConfigError, match="num_quantiles is 5, but the squared loss learns one number per action"):
        require_loss(config)
    require_loss(config, squared)
    require_loss(CONFIG)


def test_an_update_clips_each_agents_gradient_if_asked() -> None:
    for limit, expected in ((1e-3, 1e-3), (0.0, None)):
        learner = Learner(dataclasses.replace(CONFIG, max_gradient_norm=limit), networks())
        learner.update(batch())
        norm = clip_gradients(learner.online, max_norm=1.0)
        if expected:
            assert norm.tolist() == pytest.approx([expected] * 3)
        else:
            assert (norm > 1e-2).all()


@pytest.mark.parametrize("average_rate", [0.0, 0.1])
def test_what_was_saved_takes_the_same_next_step(average_rate: float) -> None:
    config = dataclasses.replace(CONFIG, average_rate=average_rate)
    saved, loaded = Learner(config, networks()), Learner(config, networks(first_seed=7))
    for step in range(5):
        saved.update(batch(seed=step))
    loaded.load_state_dict(copy.deepcopy(saved.state_dict()))
    for learner in (saved, loaded):
        learner.update(batch(seed=5))  # the sixth update copies to the target network
    assert saved.updates == loaded.updates == 6
    for network in ("online", "target", "evaluated"):
        pairs = zip(getattr(saved, network).tensors, getattr(loaded, network).tensors, strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs), network


def test_evaluated_networks_are_selected_with_the_online_ones() -> None:
    for average_rate in (0.0, 0.1):
        learner = Learner(dataclasses.replace(CONFIG, average_rate=average_rate), networks())
        learner.update(batch())
        before = learner.evaluated.weights[0].detach().clone()
        learner.select(torch.tensor([2, 0]))
        assert torch.equal(learner.evaluated.weights[0], before[[2, 0]])


def test_losses_and_their_derivatives() -> None:
    td_error = torch.tensor([-3.0, -1.5, -0.5, 0.0, 0.5, 1.5, 3.0], requires_grad=True)
    for loss, expected in (
        ("squared", [9.0, 2.25, 0.25, 0.0, 0.25, 2.25, 9.0]),
        ("huber", [2.5, 1.0, 0.125, 0.0, 0.125, 1.0, 2.5]),
    ):
        values = td_loss(td_error, loss=loss)
        torch.testing.assert_close(values, torch.tensor(expected))
        (derivative,) = torch.autograd.grad(values.sum(), td_error)
        torch.testing.assert_close(td_gradient(td_error, loss=loss), derivative)


def test_importance_weights_weigh_the_gradient() -> None:
    data = batch()
    weight = torch.rand(3, 32, generator=torch.Generator().manual_seed(1))
    weighted, halved, plain = (Learner(CONFIG, networks()) for _ in range(3))
    weighted.update(dataclasses.replace(data, weight=weight))
    halved.update(dataclasses.replace(data, weight=torch.full((3, 32), 0.5)))
    plain.update(data)
    for given, half, whole in zip(*(learner.online.parameters() for learner in (weighted, halved, plain)), strict=True):
        assert half.grad is not None
        assert whole.grad is not None
        assert given.grad is not None
        torch.testing.assert_close(half.grad, whole.grad / 2)
        assert not torch.allclose(given.grad, whole.grad / 2)


def test_gradients_are_clipped_agent_by_agent() -> None:
    population = networks().requires_grad_(True)
    scale = torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    torch.autograd.backward((population(torch.ones(3, 5, 4)) * scale).sum())
    before = [p.grad.clone() for p in population.parameters() if p.grad is not None]
    norms = clip_gradients(population, max_norm=0.1)
    after = [p.grad for p in population.parameters() if p.grad is not None]
    for k in range(3):
        expected = min(1.0, 0.1 / float(norms[k]))
        for old, new in zip(before, after, strict=True):
            torch.testing.assert_close(new[k], old[k] * expected)
    assert float(norms[0]) < 0.1 < float(norms[1])


def test_hard_target_copies_come_at_their_interval() -> None:
    learner = Learner(CONFIG, networks())
    for step in range(1, 7):
        learner.update(batch(seed=step))
        equal = torch.equal(learner.target.weights[0], learner.online.weights[0])
        assert equal == (step % 3 == 0)


def test_target_copies_of_single_agents() -> None:
    learner = Learner(dataclasses.replace(CONFIG, target_update_interval=0, target_update_episodes=10), networks())
    learner.update(batch())
    learner.copy_to_target(torch.tensor([1]))
    equal = [torch.equal(learner.target.weights[0][k], learner.online.weights[0][k]) for k in range(3)]
    assert equal == [False, True, False]


def test_polyak_and_averaged_weights_move_by_their_rate() -> None:
    config = dataclasses.replace(CONFIG, target_update_interval=0, tau=0.25, average_rate=0.5)
    learner = Learner(config, networks())
    start = learner.online.weights[0].detach().clone()
    learner.update(batch())
    online = learner.online.weights[0].detach()
    torch.testing.assert_close(learner.target.weights[0], start + 0.25 * (online - start))
    torch.testing.assert_close(learner.evaluated.weights[0], start + 0.5 * (online - start))


def test_the_learning_rate_falls_to_its_end() -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1.0, learning_rate_end=0.2, learning_rate_decay_updates=4)
    learner = Learner(config, networks())
    rates = []
    for step in range(6):
        learner.update(batch(seed=step))
        rates.append(learner._optimizer.learning_rate(step))
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
