import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dqn.config import DQNConfig
from dqn.hyperparameters import HyperParameters
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from flows.search.pbt import evolve, perturbed
from flows.search.spaces import Choice, Range, Space

Make = Callable[..., DQNConfig]

SPACE = Space(
    dimensions={
        "learning_rate": Range(low=1e-4, high=1e-1, log=True),
        "gamma": Range(low=0.8, high=0.99),
        "epsilon_decay_updates": Range(low=10, high=110, whole=True),
        "n_step": Choice(values=(1, 3)),
        "max_gradient_norm": Range(low=0.1, high=1.0),
    }
)


@pytest.fixture
def population(small_config: Make) -> TrainingState:
    config = small_config(num_agents=10, average_rate=0.1, tau=0.1, target_update_interval=0, gamma=0.9)
    configs = [dataclasses.replace(config, learning_rate=1e-3 * (k + 1)) for k in range(10)]
    state = TrainingState.begin(config, HyperParameters.of(configs))
    advance(state, 5)
    return state


def test_the_worst_go_on_as_changed_copies_of_the_best(population: TrainingState) -> None:
    returns = [5.0, 9.0, 1.0, 5.0, 5.0, 0.0, 5.0, 5.0, 8.0, 5.0]  # 5 and 2 are the worst, 1 and 8 the best
    before = copy.deepcopy(population.state_dict()["learner"])
    replayed = [chunk.clone() for chunk in population.replay.chunks()]
    rates = [population.hyperparameters.agent(k, population.config).learning_rate for k in range(10)]
    evolve(population, returns, SPACE, seed=0)
    after = population.state_dict()["learner"]
    for networks in ("online", "target", "average"):
        weights, earlier = after[networks]["weights.0"], before[networks]["weights.0"]
        sources = [next(k for k in range(10) if torch.equal(weights[row], earlier[k])) for row in range(10)]
        assert [source for row, source in enumerate(sources) if row not in (2, 5)] == [0, 1, 3, 4, 6, 7, 8, 9]
        assert {sources[2], sources[5]} <= {1, 8}
    for moment in ("means", "squares"):
        for mine, theirs in zip(after["optimizer"][moment], before["optimizer"][moment], strict=True):
            assert all(torch.equal(mine[row], theirs[source]) for row, source in enumerate(sources))
    for row, source in enumerate(sources):
        config = population.hyperparameters.agent(row, population.config)
        expected = [rates[source]] if row == source else [rates[source] * 0.8, rates[source] * 1.25]
        assert any(config.learning_rate == pytest.approx(rate) for rate in expected)
        assert (config.gamma == 0.9) == (row == source)
    assert all(map(torch.equal, population.replay.chunks(), replayed))


def test_members_go_on_by_what_they_took_over(population: TrainingState) -> None:
    evolve(population, [float(k) for k in range(10)], SPACE, seed=1)
    values = population.hyperparameters
    assert population.learner.hyperparameters is values
    online = population.learner.online.weights[0].detach().clone()
    advance(population, 6)
    moved = (population.learner.online.weights[0] - online).abs().amax((1, 2))
    rates = torch.as_tensor(values.learning_rate)
    assert moved.max() / moved.min() > 1.5  # AdamW's steps go by the rates, which differ tenfold
    assert int(moved.argmax()) in rates.topk(3).indices.tolist()


def test_who_copies_depends_on_the_seed_alone(small_config: Make) -> None:
    config = small_config(num_agents=10)
    first, again, other = (TrainingState.begin(config) for _ in range(3))
    for state, seed in ((first, 0), (again, 0), (other, 1)):
        evolve(state, [float(k) for k in range(10)], SPACE, seed=seed)

    def members(state: TrainingState) -> list[DQNConfig]:
        return [state.hyperparameters.agent(k, config) for k in range(10)]

    assert members(first) == members(again) != members(other)


def test_a_population_too_small_for_a_fifth_stays_as_it_is(small_config: Make) -> None:
    state = TrainingState.begin(small_config(num_agents=4))
    before = state.hyperparameters
    evolve(state, [1.0, 2.0, 3.0, 4.0], SPACE, seed=0)
    assert state.hyperparameters is before


def test_changes_are_a_step_up_or_down_within_the_range(small_config: Make) -> None:
    config = small_config(learning_rate=1e-2, gamma=0.9, epsilon_decay_updates=100, max_gradient_norm=0.5)
    seen: dict[str, set[Any]] = {name: set() for name in SPACE.dimensions}
    for seed in range(40):
        changed = perturbed(config, SPACE, np.random.default_rng(seed))
        for name in SPACE.dimensions:
            seen[name].add(getattr(changed, name))
    assert sorted(seen["learning_rate"]) == pytest.approx([0.8e-2, 1.25e-2])
    assert sorted(seen["gamma"]) == pytest.approx([0.9 - 0.2 * 0.19, 0.9 + 0.2 * 0.19])
    assert seen["epsilon_decay_updates"] == {80, 110}  # up to the end of the range
    assert seen["n_step"] == {3}
    assert seen["max_gradient_norm"] == {0.5}  # all members share it
    least = small_config(epsilon_decay_updates=12)
    assert {perturbed(least, SPACE, np.random.default_rng(k)).epsilon_decay_updates for k in range(9)} == {10, 32}


def test_up_is_as_likely_as_down(small_config: Make) -> None:
    config = small_config(learning_rate=1e-2)
    space = Space(dimensions={"learning_rate": Range(low=1e-4, high=1e-1, log=True)})
    generator = np.random.default_rng(0)
    up = [perturbed(config, space, generator).learning_rate > config.learning_rate for _ in range(300)]
    assert 120 < sum(up) < 180


def test_networks_that_exist_do_not_begin_with_other_values(small_config: Make) -> None:
    config = small_config(initial_q=0.5)
    space = Space(dimensions={"initial_q": Range(low=0.0, high=1.0)})
    assert perturbed(config, space, np.random.default_rng(0)) == config
