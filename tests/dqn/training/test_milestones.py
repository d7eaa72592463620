import itertools
from collections.abc import Callable

import pytest
import torch

from dqn.config import DQNConfig
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.population import QNetworks, together
from dqn.training.loop import train
from dqn.training.milestones import MOST, milestones_due


@pytest.mark.parametrize("max_updates", [1, 30, 4_000, 30_000, 750_000])
def test_milestones_come_at_the_start_and_then_ever_more_seldom(max_updates: int) -> None:
    due = sorted(milestones_due(max_updates))
    assert due[0] == 0
    assert due[-1] < max_updates
    assert len(due) <= MOST
    assert all(later <= 1.3 * earlier + 1 for earlier, later in itertools.pairwise(due[1:]))


def test_each_time_a_quarter_more_updates_have_been_made() -> None:
    assert sorted(milestones_due(100)) == [0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 17, 21, 26, 33, 41, 51, 64, 80]
    _, first, *_ = long = sorted(milestones_due(750_000))
    assert (first, len(long)) == (1_813, 28)


def test_an_agent_accepted_after_an_eighth_of_its_budget_has_passed_about_twenty() -> None:
    assert 18 <= sum(updates < 500 for updates in milestones_due(4_000)) <= 20


def test_the_way_of_an_agent_begins_untrained_and_ends_before_it_leaves(small_config: Callable[..., DQNConfig]) -> None:
    config = small_config(acceptance_return=9.0, acceptance_episodes=3, eval_interval=10, max_updates=200)
    result = train(config)
    assert len({agent.updates for agent in result.agents}) > 1
    for agent in result.agents:
        way = result.milestones_of(agent.agent)
        passed = sorted(updates for updates in milestones_due(config.max_updates) if updates < agent.updates)
        assert [kept.updates for kept in way] == passed
        assert way[0].environment_steps == 0
        steps = [kept.environment_steps for kept in way]
        assert steps == sorted(steps)
        assert steps[-1] < agent.environment_steps
    observation = torch.randn(1, 5, 4)
    start = QNetworks.initialised(
        seeds=[0], body=MLP(observation_shape=(4,), hidden_sizes=config.hidden_sizes), num_actions=2
    )
    first, last = result.milestones_of(1)[0].networks, result.milestones_of(1)[-1].networks
    assert first.num_agents == start.num_agents == 1
    assert not torch.equal(first(observation), last(observation))


def test_networks_together_are_each_its_own() -> None:
    population = QNetworks.initialised(
        seeds=range(3),
        body=MLP(observation_shape=(4,), hidden_sizes=(8,)),
        num_actions=2,
        dueling=True,
        head=Mean(num_outputs=2),
    )
    alone = [population.select(torch.tensor([agent])) for agent in (2, 0)]
    observation = torch.randn(2, 5, 4)
    assert torch.equal(together(alone)(observation), population.select(torch.tensor([2, 0]))(observation))
