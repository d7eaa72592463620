import math
from typing import Any

import pytest
import torch

from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.population import QNetworks


def mlp(*hidden_sizes: int) -> MLP:
    return MLP(observation_shape=(4,), hidden_sizes=hidden_sizes)


def networks(num_agents: int = 3, **overrides: Any) -> QNetworks:
    arguments: dict[str, Any] = {
        "seeds": range(num_agents),
        "body": mlp(16, 8),
        "num_actions": 2,
        "observation_scale": (2.0, 1.0, 0.5, 4.0),
    }
    return QNetworks.initialised(**(arguments | overrides))


def test_a_population_computes_what_its_agents_compute_alone() -> None:
    population = networks()
    observation = torch.randn(3, 10, 4)
    q_values = population(observation)
    assert q_values.shape == (3, 10, 2)
    for k in range(3):
        torch.testing.assert_close(q_values[k], population.agent(k)(observation[k]))


@pytest.mark.parametrize("dueling", [False, True])
def test_gradients_by_hand_are_those_of_autograd(dueling: bool) -> None:
    population = networks(dueling=dueling).requires_grad_(True)
    observation, gradient = torch.randn(3, 10, 4), torch.randn(3, 2, 10)
    q_values = population(observation)
    expected = torch.autograd.grad((q_values.mT * gradient).sum(), list(population.parameters()))
    population.backward(population.activations(observation), gradient)
    for parameter, by_autograd in zip(population.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, by_autograd)


def test_dueling_heads_add_a_value_to_advantages_without_a_mean() -> None:
    population = networks(dueling=True, body=mlp(), observation_scale=())
    assert (population.num_agents, population.num_actions) == (3, 2)
    observation = torch.randn(3, 10, 4)
    heads = observation @ population.weights[0].mT + population.biases[0].mT
    value, advantage = heads[..., :1], heads[..., 1:]
    torch.testing.assert_close(population(observation), value + advantage - advantage.mean(-1, keepdim=True))
    torch.testing.assert_close(population.agent(1)(observation[1]), population(observation)[1])


@pytest.mark.parametrize("quantiles", [2, 5])
@pytest.mark.parametrize("dueling", [False, True])
def test_a_q_value_is_the_mean_of_its_quantiles(dueling: bool, quantiles: int) -> None:
    population = networks(dueling=dueling, head=Mean(num_outputs=quantiles))
    assert population.num_actions == 2
    observation = torch.randn(3, 10, 4)
    outputs = population.outputs(observation)
    assert outputs.shape == (3, 10, 2, quantiles)
    assert torch.equal(population.by_action(population.activations(observation)[-1]), outputs)
    torch.testing.assert_close(population(observation), outputs.mean(-1))
    torch.testing.assert_close(population.agent(1)(observation[1]), population(observation)[1])
    for copy in (population.select(torch.tensor([0, 1, 2])), population.on(torch.device("meta"))):
        assert (copy.head.num_outputs, copy.num_actions, copy.dueling) == (quantiles, 2, dueling)


def test_a_single_quantile_is_the_q_value() -> None:
    population, observation = networks(), torch.randn(3, 10, 4)
    assert torch.equal(population.outputs(observation).squeeze(-1), population(observation))


def test_observations_are_scaled_inside_the_network() -> None:
    scaled, plain = networks(), networks(observation_scale=())
    scale = torch.tensor([2.0, 1.0, 0.5, 4.0])
    observation = torch.randn(3, 5, 4)
    torch.testing.assert_close(scaled(observation * scale), plain(observation))


def test_a_scale_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="observation_scale has 2 entries for observations of 4"):
        networks(observation_scale=(1.0, 2.0))


def test_initialisation_is_that_of_linear_layers() -> None:
    population = networks(num_agents=200)
    for weight, bias in zip(population.weights, population.biases, strict=True):
        bound = 1 / math.sqrt(weight.shape[2])
        for parameter in (weight, bias):
            assert float(parameter.abs().max()) <= bound
            assert float(parameter.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_an_agent_starts_the_same_in_every_population() -> None:
    small, large = networks(num_agents=2), networks(num_agents=5)
    for mine, theirs in zip(small.parameters(), large.parameters(), strict=True):
        assert torch.equal(mine, theirs[:2])
    assert not torch.equal(large.weights[0][0], large.weights[0][1])


def test_an_optimistic_start_raises_every_q_value() -> None:
    observation = torch.randn(3, 5, 4)
    torch.testing.assert_close(networks(initial_q=7.0)(observation), networks()(observation) + 7.0)


def test_select_copies_and_assign_puts_back() -> None:
    population = networks()
    chosen = population.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.weights[0], population.weights[0][[2, 0]])
    assert (chosen.num_agents, networks(body=mlp()).select(torch.tensor([1])).num_agents) == (2, 1)
    before = population.weights[1][1].clone()
    with torch.no_grad():
        for parameter in chosen.parameters():
            parameter.add_(1)
    assert not torch.equal(chosen.weights[0][0], population.weights[0][2])
    population.assign(torch.tensor([2, 0]), chosen)
    assert torch.equal(chosen.weights[0], population.weights[0][[2, 0]])
    assert torch.equal(population.weights[1][1], before)


def test_a_population_tells_its_size_and_where_it_computes() -> None:
    population = networks(num_agents=5, dueling=True)
    assert (population.num_agents, population.num_actions) == (5, 2)
    assert population.device == torch.device("cpu")
    assert population.on(torch.device("cpu")) is population
    elsewhere = population.on(torch.device("meta"))  # a device that every machine has
    assert {tensor.device.type for tensor in (*elsewhere.tensors, elsewhere.observation_scale)} == {"meta"}
    assert elsewhere.dueling
    assert elsewhere.num_agents == 5


def test_networks_have_as_many_biases_as_weights() -> None:
    population = networks()
    weights, biases = list(population.weights), list(population.biases)
    uneven = QNetworks(weights, [biases[0], biases[-1]], population.observation_scale, body=population.body)
    with pytest.raises(ValueError, match="zip"):
        uneven(torch.zeros(3, 1, 4))


def test_networks_are_plain_unless_asked_and_autograd_leaves_them_alone() -> None:
    population = networks()
    copy = QNetworks(
        list(population.weights), list(population.biases), population.observation_scale, body=population.body
    )
    assert not copy.dueling
    trained = population.requires_grad_(True)
    for each in (copy, trained.select(torch.tensor([0]))):
        assert not any(parameter.requires_grad for parameter in each.parameters()), "autograd would follow in vain"
