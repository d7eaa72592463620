import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig
from dqn.experience.exploration import epsilon_greedy, linear_epsilon
from dqn.hyperparameters import HyperParameters, structure
from dqn.learning.learner import Learner
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.metrics import MetricName
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from tests.support.dqn.learning import CONFIG, batch, networks, part_of, rows_of
from tests.support.dqn.training import equal

Make = Callable[..., DQNConfig]

VARIED: dict[str, list[Any]] = {
    "learning_rate": [1e-2, 1e-3, 3e-3],
    "learning_rate_end": [1e-3, 1e-3, 0.0],
    "gamma": [0.9, 0.99, 0.5],
    "tau": [0.1, 0.3, 0.01],
    "target_update_interval": [2, 3, 7],
    "reward_scale": [1.0, 0.1, 2.0],
    "initial_q": [0.0, 1.0, -1.0],
    "epsilon_start": [1.0, 0.5, 0.8],
    "epsilon_end": [0.0, 0.1, 0.3],
    "epsilon_decay_updates": [0, 50, 1_000],
    "exploration_persistence": [0.5, 0.9, 0.1],
    "weight_decay": [0.0, 0.1, 1.0],
    "adam_betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
    "adam_eps": [1e-8, 1e-4, 1e-2],
    "average_rate": [0.01, 0.1, 0.5],
}


def varied(config: DQNConfig, *names: str) -> list[DQNConfig]:
    """Three agents' configurations that differ in what is named, or in everything but the interval of hard copies."""
    names = names or tuple(VARIED.keys() - {"target_update_interval"})
    return [dataclasses.replace(config, **{name: VARIED[name][k] for name in names}) for k in range(3)]


def polyak(make: Make, **overrides: Any) -> DQNConfig:
    rates = {"target_update_interval": 0, "tau": 0.1, "average_rate": 0.1, "exploration_persistence": 0.5}
    return make(**(rates | {"learning_rate_decay_updates": 100} | overrides))


@pytest.mark.parametrize(
    "names",
    [(name,) for name in ("learning_rate", "learning_rate_end", "tau", "average_rate", "adam_eps", "adam_betas")]
    + [("learning_rate", "weight_decay"), ("weight_decay",), ()],
    ids=lambda names: " ".join(names) or "all",
)
def test_a_varied_population_takes_the_steps_each_agent_would_take_alone(names: tuple[str, ...]) -> None:
    averaged: dict[str, Any] = {"target_update_interval": 0, "tau": 0.1, "average_rate": 0.1}
    configs = varied(dataclasses.replace(CONFIG, learning_rate_decay_updates=8, **averaged), *names)
    population = Learner(configs[0], networks(), HyperParameters.of(configs))
    alone = [Learner(config, networks().select(torch.tensor([k]))) for k, config in enumerate(configs)]
    for step in range(12):
        data = batch(seed=step)
        population.update(data)
        for k, learner in enumerate(alone):
            learner.update(part_of(data, k))
    for k, learner in enumerate(alone):
        for which in ("online", "target", "evaluated"):
            for mine, theirs in zip(getattr(learner, which).tensors, getattr(population, which).tensors, strict=True):
                torch.testing.assert_close(mine[0], theirs[k], rtol=1e-4, atol=1e-6)


def test_hard_copies_come_at_each_agents_interval() -> None:
    configs = varied(CONFIG, "target_update_interval")
    learner = Learner(configs[0], networks(), HyperParameters.of(configs))
    for step in range(1, 15):
        learner.update(batch(seed=step))
        equal = [torch.equal(learner.target.weights[0][k], learner.online.weights[0][k]) for k in range(3)]
        assert equal == [step % interval == 0 for interval in VARIED["target_update_interval"]]


@pytest.mark.parametrize("schedule", [{}, {"epsilon_decay_per_episode": 0.05}], ids=["linear", "by episode"])
def test_each_agent_trains_as_in_a_population_of_its_own_kind(small_config: Make, schedule: dict[str, float]) -> None:
    # Its sub-environments draw each from a generator of their own, whatever the others do.
    configs = varied(polyak(small_config, env_id="ProbeRandomLength-v0", **schedule))
    together = train(configs[0], HyperParameters.of(configs))
    names: tuple[MetricName, ...] = ("train/episodic_return", "train/epsilon", "train/q_value", "eval/mean_return")
    for k, config in enumerate(configs):
        kin = train(config)
        for mine, theirs in zip(kin.final.parameters(), together.final.parameters(), strict=True):
            torch.testing.assert_close(mine[k], theirs[k], rtol=1e-3, atol=1e-5)
        for name in names:
            for column, expected in zip(kin.metrics.series(name, k), together.metrics.series(name, k), strict=True):
                torch.testing.assert_close(column, expected, rtol=1e-3, atol=1e-5)


def test_agents_that_are_alike_add_nothing(small_config: Make) -> None:
    config = polyak(small_config)
    values = HyperParameters.of([config] * 3)
    assert not any(isinstance(value, Tensor) for value in values.state_dict().values())
    assert equal(train(config, values), train(config))


def test_agents_that_stay_keep_their_values_and_moments() -> None:
    decay = {"learning_rate_decay_updates": 100}
    configs = varied(dataclasses.replace(CONFIG, target_update_interval=0, tau=0.1, average_rate=0.1, **decay))  # type: ignore[arg-type]
    whole, narrowed = (Learner(configs[0], networks(), HyperParameters.of(configs)) for _ in range(2))
    for learner in (whole, narrowed):
        learner.update(batch(seed=0))
    for keep in (torch.tensor([0, 2]), torch.tensor([1])):  # two that differ; of them one, which steps with the fused
        narrowed.select(keep)
        rows = torch.tensor([0, 2])[keep] if len(keep) == 1 else keep
        for step in range(1, 5):
            data = batch(seed=step + 10 * len(keep))
            whole.update(data)
            narrowed.update(rows_of(data, rows))
        for mine, theirs in zip(narrowed.evaluated.tensors, whole.evaluated.tensors, strict=True):
            torch.testing.assert_close(mine, theirs[rows], rtol=1e-4, atol=1e-6)
    assert not isinstance(narrowed.hyperparameters.gamma, Tensor)
    assert narrowed.hyperparameters.gamma == 0.5


@pytest.mark.parametrize("variant", [{}, {"acceptance_return": 9.0, "eval_interval": 10}], ids=["all", "some leave"])
def test_a_varied_run_resumed_from_a_checkpoint_ends_as_the_unbroken_one(
    small_config: Make, tmp_path: Path, variant: dict[str, float]
) -> None:
    configs = varied(polyak(small_config, checkpoint_interval=0.0, **variant))
    paths: list[Path] = []

    def checkpoint(state: TrainingState) -> None:
        if state.environment_steps // configs[0].num_envs % 13 == 0:
            paths.append(tmp_path / f"{len(paths)}.ckpt")
            save_checkpoint(paths[-1], state)

    unbroken = train(configs[0], HyperParameters.of(configs), on_checkpoint=checkpoint, now=lambda: 0.0)
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        state, continues = load_checkpoint(path, configs[0])
        assert continues
        assert equal(train(configs[0], state=state), unbroken)


def test_selected_agents_keep_their_own_values() -> None:
    rates = {"target_update_interval": 0, "tau": 0.1, "average_rate": 0.1, "learning_rate_decay_updates": 9}
    configs = varied(dataclasses.replace(CONFIG, num_agents=1, **rates))  # type: ignore[arg-type]
    values = HyperParameters.from_state_dict(HyperParameters.of(configs).state_dict())
    for agents in ([0], [1], [2], [2, 0]):
        mine, expected = values.select(torch.tensor(agents)), HyperParameters.of([configs[k] for k in agents])
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": (8,), "n_step": 2}, "cannot differ in hidden_sizes, n_step"),
        ({"average_rate": 0.1}, "whether average_rate is 0"),
        ({"seed": 1}, "cannot differ in seed"),
    ],
    ids=lambda value: str(value),
)
def test_what_shapes_tensors_makes_another_population(changes: dict[str, Any], message: str) -> None:
    other = dataclasses.replace(CONFIG, **changes)
    assert structure(other) != structure(CONFIG)
    with pytest.raises(ConfigError, match=message):
        HyperParameters.of([CONFIG, other])


def test_every_hyperparameter_is_covered_here() -> None:
    fields = {field.name for field in dataclasses.fields(HyperParameters)}
    assert fields - {"adam_beta1", "adam_beta2"} == VARIED.keys() - {"adam_betas"}
    for name, value in VARIED.items():
        assert all(first != other for first, other in itertools.combinations(value, 2)) or name == "learning_rate_end"


def test_schedules_of_agents_are_those_of_each() -> None:
    start, end, decay = torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.1, 0.5, 0.0]), torch.tensor([10.0, 5.0, 0.0])
    for update in (0, 3, 5, 10, 50):
        values = linear_epsilon(update, start=start, end=end, decay_updates=decay)
        assert isinstance(values, Tensor)
        expected = [
            linear_epsilon(update, start=float(s), end=float(e), decay_updates=float(d))
            for s, e, d in zip(start, end, decay, strict=True)
        ]
        assert values.tolist() == pytest.approx(expected)


def test_each_agent_persists_by_its_own_chance() -> None:
    persisting = torch.full((2, 20_000), 1)
    action = epsilon_greedy(
        torch.tensor([1.0, 0.0]).expand(2, 20_000, 2),
        torch.zeros(2),
        torch.Generator().manual_seed(0),
        persistence=torch.tensor([0.2, 0.7], dtype=torch.float64),
        persisting=persisting,
    )
    assert action.double().mean(1).tolist() == pytest.approx([0.2, 0.7], abs=0.02)


def test_training_in_stretches_is_training_at_once(small_config: Make) -> None:
    config = small_config(updates_per_step=3)
    at_once, stretched = TrainingState.begin(config), TrainingState.begin(config)
    advance(at_once, 30)
    steps: list[int] = []
    for updates in (12, 12, 30):  # whole steps of the vector environment
        advance(stretched, updates, on_step=lambda: steps.append(stretched.learner.updates))
        assert stretched.learner.updates == updates
    assert steps[-1] == 30
    assert len(steps) == stretched.environment_steps // config.num_envs
    pairs = zip(at_once.learner.online.tensors, stretched.learner.online.tensors, strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    advance(stretched, 31)
    assert stretched.learner.updates == 31
