"""What a shard decides at its rungs, with populations that count instead of training."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna import Study
from optuna.trial import TrialState

from dqn.config import DQNConfig
from dqn.hyperparameters import HyperParameters
from dqn.presets import PRESETS
from dqn.seeding import SELECTION, TRAINING, stream_seed
from flows.search import shard as module
from flows.search.settings import SweepConfig
from flows.search.shard import Progress, run_shard
from flows.search.spaces import Choice, Range, Space
from flows.search.study import begin_study, claim, report, tell
from flows.search.trials import configuration
from tests.support.flows.sweeps import SMALL, keep_in_memory, sweep

ONE = Space(dimensions={"learning_rate": Range(low=1e-3, high=1e-2, log=True)})
"""All of its trials are one population."""

Worth = Callable[["Population"], list[float]]


class Population:
    """What a shard asks of a population's state."""

    def __init__(self, path: Path, config: DQNConfig, values: HyperParameters) -> None:
        self.path, self.config, self.hyperparameters = path, config, values
        self.agents = torch.arange(config.num_agents)
        self.learner = SimpleNamespace(updates=0, evaluated=self)
        self.environment = SimpleNamespace(close=lambda: None)
        self.diverged: dict[int, tuple[int, str]] = {}

    def select(self, rows: torch.Tensor) -> None:
        self.agents = self.agents[rows]

    @property
    def rates(self) -> list[float]:
        """Learning rates of the members that are left."""
        rates = torch.as_tensor(self.hyperparameters.learning_rate).expand(self.config.num_agents)
        return [float(rate) for rate in rates[self.agents]]


@dataclasses.dataclass(kw_only=True)
class Machine:
    """On which populations train: what they are, and what they played."""

    populations: list[Population] = dataclasses.field(default_factory=list)
    played: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    saved: list[tuple[Path, object]] = dataclasses.field(default_factory=list)
    worth: Worth = lambda population: population.rates
    """Mean returns of the members that are left"""

    def state(self, path: Path, config: DQNConfig, values: HyperParameters) -> Population:
        self.populations.append(Population(path, config, values))
        return self.populations[-1]

    def advance(self, state: Population, updates: int, *, on_step: Callable[[], None]) -> None:
        if len(state.agents) and state.learner.updates < updates:
            state.learner.updates = updates
            on_step()

    def greedy_returns(self, state: Population, *where: Any, episodes: int, seed: int) -> torch.Tensor:
        assert where == (state.config.environment, state.config.world)
        assert not torch.is_grad_enabled()
        self.played.append((episodes, seed))
        around = torch.linspace(-1.0, 1.0, episodes) if episodes > 1 else torch.zeros(1)
        return torch.tensor(self.worth(state), dtype=torch.float64)[:, None] + around.round()

    def save_checkpoint(self, path: Path, state: Population, *, may_replace: object) -> None:
        path.touch()
        self.saved.append((path, may_replace))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    keep_in_memory(monkeypatch)
    monkeypatch.setitem(PRESETS, "cartpole", SMALL)
    machine = Machine()
    monkeypatch.setattr(module, "_state", machine.state)
    for name in ("advance", "greedy_returns", "save_checkpoint"):
        monkeypatch.setattr(module, name, getattr(machine, name))
    clock = lambda state, save: SimpleNamespace(save_if_due=lambda: save(state))  # noqa: E731 # one that is always due
    monkeypatch.setattr(module, "Clock", clock)
    return machine


def listed(**returns: list[float | None]) -> Worth:
    """Mean returns of one population by `at4`, `at8` and `at16`, one a member."""
    return lambda population: [returns[f"at{population.learner.updates}"][k] for k in population.agents.tolist()]


def begun(settings: SweepConfig, shard: int = 0) -> Study:
    study = begin_study("rungs", settings)
    claim(study, settings, shard)
    return study


def test_the_better_half_continues_and_equals_are_ordered_by_earlier_returns(machine: Machine, tmp_path: Path) -> None:
    machine.worth = listed(
        at4=[3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0],
        at8=[None, None, 8.0, None, 8.0, 8.0, None, 0.0],
        at16=[None, None, None, None, 7.0, 6.0, None, None],
    )
    settings = sweep(method="random", space=ONE, episodes=2, seed=3)
    study = begun(settings)
    seen: list[Progress] = []
    run_shard(study, settings, 0, directory=tmp_path, on_progress=seen.append)
    trials = study.get_trials()
    assert [[round(mean, 9) for mean in trial.intermediate_values.values()] for trial in trials] == [
        *([3.0], [1.0], [4.0, 8.0], [1.0], [5.0, 8.0, 7.0], [9.0, 8.0, 6.0], [2.0], [6.0, 0.0])
    ]
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in trials] == [pruned] * 4 + [complete] * 2 + [pruned] * 2
    assert [trials[4].value, trials[5].value] == pytest.approx([7.0, 6.0])
    assert seen == [
        Progress(shard=0, rung=0, updates=8 * 4, trials=8, best=-torch.inf),
        Progress(shard=0, rung=1, updates=8 * 4 + 4 * 4, trials=4, best=9.0),
        Progress(shard=0, rung=2, updates=8 * 4 + 4 * 4 + 2 * 8, trials=2, best=8.0),
    ]
    seeds = [stream_seed(3, SELECTION, rung) for rung in range(3)]
    assert machine.played == list(zip((2, 2, 10), seeds, strict=True))


def test_a_population_is_what_its_trials_say_and_is_saved_until_it_is_over(machine: Machine, tmp_path: Path) -> None:
    settings = sweep(method="random", trials=16, seed=3)
    study = begun(settings, 1)
    may_save = lambda: True  # noqa: E731 # its identity is what is asked
    run_shard(study, settings, 1, directory=tmp_path, may_save=may_save)
    trials = study.get_trials()
    assert len(machine.populations) == 2
    for number, population in enumerate(machine.populations):
        config = population.config
        configs = [c for c in (configuration(trial, settings) for trial in trials) if c.n_step == config.n_step]
        assert (config.num_agents, config.seed) == (len(configs), stream_seed(3, TRAINING, 1, number))
        assert population.path == tmp_path / f"rungs-001-{number:02d}.ckpt"
        members = [vars(population.hyperparameters.select(torch.tensor([k]))) for k in range(len(configs))]
        assert members == [vars(HyperParameters.of([mine])) for mine in configs]
    assert {path for path, _ in machine.saved} == {population.path for population in machine.populations}
    assert all(asked is may_save for _, asked in machine.saved)
    assert not list(tmp_path.iterdir())


def test_populations_are_compared_with_each_other(machine: Machine, tmp_path: Path) -> None:
    settings = sweep(method="random")
    seen: list[Progress] = []
    study = begun(settings)
    run_shard(study, settings, 0, directory=tmp_path, on_progress=seen.append)
    by_rate = sorted(study.get_trials(), key=lambda trial: trial.params["learning_rate"], reverse=True)
    assert len({trial.params["n_step"] for trial in by_rate[:4]}) == 2
    assert [len(trial.intermediate_values) for trial in by_rate] == [3, 3, 2, 2, 1, 1, 1, 1]
    for trial in by_rate:
        returns = list(trial.intermediate_values.values())
        assert returns == pytest.approx([trial.params["learning_rate"]] * len(returns))
    assert seen[-1].updates == settings.updates(0)
    assert [progress.updates for progress in seen] == sorted(progress.updates for progress in seen)


def test_what_is_known_is_not_measured_again(machine: Machine, tmp_path: Path) -> None:
    settings = sweep(method="random", space=ONE)
    study = begun(settings)
    for position, trial in enumerate(study.get_trials()):
        report(study, trial, updates=4, mean_return=float(position))
        if position in (6, 7):
            report(study, trial, updates=8, mean_return=position - 50.0)  # of no account at the rung before
        if position == 0:
            tell(study, settings, trial, updates=4, mean_return=0.0)
    run_shard(study, settings, 0, directory=tmp_path)
    assert len(machine.played) == 2  # at the second rung of two trials, and at the last
    trials = study.get_trials()
    assert [trial.intermediate_values[4] for trial in trials] == [float(position) for position in range(8)]
    assert [trial.intermediate_values.get(8) for trial in trials[6:]] == [-44.0, -43.0]
    pruned = TrialState.PRUNED
    rates = [trial.params["learning_rate"] for trial in trials[4:6]]
    assert [trial.intermediate_values[8] for trial in trials[4:6]] == pytest.approx(rates)
    assert [trial.state for trial in trials] == [pruned] * 4 + [TrialState.COMPLETE] * 2 + [pruned] * 2


def test_what_cannot_be_trained_has_failed_and_counts_for_nothing(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = Space(dimensions={**ONE.dimensions, "min_replay_batches": Choice(values=(2, 200))})  # 1,600 of 200
    settings = sweep(method="random", space=space, trials=12, shard_trials=12)
    seen: list[Progress] = []
    study = begun(settings)
    with caplog.at_level(logging.WARNING):
        run_shard(study, settings, 0, directory=tmp_path, on_progress=seen.append)
    trials = study.get_trials()
    failed = [trial for trial in trials if trial.params["min_replay_batches"] == 200]
    assert 0 < len(failed) < 12
    assert [trial for trial in trials if trial.state == TrialState.FAIL] == failed
    assert [f"trial {trial.number} cannot be trained" in caplog.text for trial in trials] == [
        trial in failed for trial in trials
    ]
    going = 12 - len(failed)
    assert [progress.trials for progress in seen] == [going, round(going / 2), round(going / 4)]


def test_a_population_is_where_its_checkpoint_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_checkpoint", lambda *what: (("loaded", *what), "others"))
    monkeypatch.setattr("dqn.training.state.TrainingState.begin", lambda *what: ("new", *what))
    values = HyperParameters.of([SMALL])
    path = tmp_path / "a.ckpt"
    assert module._state(path, SMALL, values) == ("new", SMALL, values)  # type: ignore[comparison-overlap] # stand-ins
    path.touch()
    assert module._state(path, SMALL, values) == ("loaded", path, SMALL)  # type: ignore[comparison-overlap]
