"""A shard of a sweep: trials that train side by side and are compared at rungs, until each has ended.

The returns at every rung are in Optuna's storage, the training state is in checkpoints. A process that continues a
shard reads both, repeats the same decisions and trains on.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from dqn.config import ConfigError, DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.hyperparameters import HyperParameters, structure
from dqn.seeding import SELECTION, TRAINING, stream_seed
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.clock import Clock
from dqn.training.machine import torch_threads
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from flows.search.settings import SweepConfig
from flows.search.study import claim, report, shard_trials, tell, tell_diverged
from flows.search.trials import order, returns_by_rung

LAST_RUNG_EPISODES: Final = 5
"""Factor on the episodes of a comparison at the last rung, which fewer trials reach."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a shard."""

    shard: int
    rung: int
    updates: int
    """Gradient updates so far of all its trials together, including those of an earlier process."""
    trials: int
    """Number of trials in training."""
    best: float
    """Greatest mean return at the last comparison, or minus infinity before the first."""


@dataclass(frozen=True, kw_only=True)
class _Population:
    """The trials of one structure, which train as one population."""

    state: TrainingState
    positions: tuple[int, ...]
    """`[A]`, the position of each agent's trial in the shard"""
    clock: Clock
    path: Path

    @property
    def training(self) -> list[int]:
        """Positions of the trials in training, in the order of the state's rows."""
        return [self.positions[agent] for agent in self.state.agents.tolist()]

    def keep(self, alive: set[int]) -> None:
        """Stop training all trials but those at the positions `alive`."""
        staying = [row for row, position in enumerate(self.training) if position in alive]
        if len(staying) < len(self.training):
            self.state.select(torch.tensor(staying, dtype=torch.int64))


def run_shard(
    study: Study,
    sweep: SweepConfig,
    shard: int,
    *,
    directory: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    may_save: Callable[[], bool] = lambda: True,
) -> None:
    """Train the trials of a shard, or continue them; if all of them have ended, nothing is trained.

    Args:
        study: contains the trials.
        sweep: settings of the study.
        shard: number of the shard.
        directory: of the checkpoints; they are removed when every trial has ended.
        on_progress: called after each step of a vector environment.
        may_save: called before a checkpoint replaces the previous one; False keeps the previous one.

    Raises:
        CheckpointError: if a checkpoint cannot be read or written.
        MemoryError: if the trials do not fit in memory.
    """
    trials = claim(study, sweep, shard)
    if all(trial.state.is_finished() for trial in trials):
        for path in directory.glob(f"{study.study_name}-{shard:03d}-*.ckpt"):  # of a killed process
            path.unlink(missing_ok=True)
        reached = [returns_by_rung(trial, sweep.rungs) for trial in trials]
        best = max((returns[-1] for returns in reached if returns), default=-torch.inf)
        last = len(sweep.rungs) - 1
        on_progress(Progress(shard=shard, rung=last, updates=sweep.updates(shard), trials=0, best=best))
        return
    populations = _populations(study, sweep, shard, trials, directory, may_save)
    try:
        _climb(study, sweep, shard, trials, populations, on_progress)
    finally:
        for population in populations:
            population.state.environment.close()
    for population in populations:
        population.path.unlink(missing_ok=True)


def _climb(
    study: Study,
    sweep: SweepConfig,
    shard: int,
    trials: Sequence[FrozenTrial],
    populations: Sequence[_Population],
    on_progress: Callable[[Progress], None],
) -> None:
    """Train from rung to rung until every trial has ended."""
    alive = {position for population in populations for position in population.positions}
    began, done, best = len(alive), 0, -torch.inf

    def show(rung: int, updates: int) -> None:
        on_progress(Progress(shard=shard, rung=rung, updates=done + updates, trials=len(alive), best=best))

    for rung, updates in enumerate(sweep.rungs):
        before = sweep.rungs[rung - 1] if rung else 0
        for population in populations:
            population.keep(alive)
            _advance(population, updates, partial(show, rung))
            done += len(population.training) * (updates - before)
            alive -= _without_diverged(study, population, trials, updates)
        returns = _compare(study, sweep, shard, rung, populations, alive)
        best = max(returns.values(), default=best)
        trials = shard_trials(study, shard)
        staying = set(_ranked(alive, trials, sweep.rungs[: rung + 1])[: sweep.alive(shard, began, rung + 1)])
        if rung + 1 == len(sweep.rungs):
            staying = set()
        for position in sorted(alive - staying):
            tell(study, sweep, trials[position], updates=updates, mean_return=returns[position])
        alive = staying


def _populations(
    study: Study,
    sweep: SweepConfig,
    shard: int,
    trials: Sequence[FrozenTrial],
    directory: Path,
    may_save: Callable[[], bool],
) -> list[_Population]:
    """The shard's trials by structure, from the checkpoints if they exist; trials that cannot be trained fail."""
    groups: dict[tuple[object, ...], dict[int, DQNConfig]] = {}
    for position, trial in enumerate(trials):
        try:
            config = sweep.space.configuration(sweep.base, trial.params)
        except ConfigError as error:
            logger.warning("trial %d cannot be trained and has failed: %s", trial.number, error)
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            continue
        groups.setdefault(structure(config), {})[position] = config
    populations = []
    for number, configs in enumerate(groups.values()):
        seed = stream_seed(sweep.seed, TRAINING, shard, number)
        config = dataclasses.replace(next(iter(configs.values())), num_agents=len(configs), seed=seed)
        path = directory.absolute() / f"{study.study_name}-{shard:03d}-{number:02d}.ckpt"
        state = _state(path, config, HyperParameters.of(list(configs.values())))

        def save(state: TrainingState, path: Path = path) -> None:
            save_checkpoint(path, state, may_replace=may_save)

        populations.append(_Population(state=state, positions=tuple(configs), clock=Clock(state, save), path=path))
    return populations


def _state(path: Path, config: DQNConfig, values: HyperParameters) -> TrainingState:
    return load_checkpoint(path, config)[0] if path.exists() else TrainingState.begin(config, values)


def _advance(population: _Population, updates: int, show: Callable[[int], None]) -> None:
    state = population.state
    began = state.learner.updates

    def on_step() -> None:
        population.clock.save_if_due()
        show((state.learner.updates - began) * len(state.agents))

    with torch_threads(state.config.num_threads):
        advance(state, updates, on_step=on_step)


def _without_diverged(study: Study, population: _Population, trials: Sequence[FrozenTrial], updates: int) -> set[int]:
    """End the trials that have diverged up to a rung, and log their names; returns their positions.

    A checkpoint may contain later divergences. These count at their own rung, so that every decision is repeated.
    """
    gone = set()
    for agent, (update, reason) in population.state.diverged.items():
        position = population.positions[agent]
        if update <= updates:
            gone.add(position)
            why = f"after update {update:,}: {reason}"
            logger.warning("trial %d diverged %s", trials[position].number, why)
            tell_diverged(study, trials[position], why)
    return gone


def _ranked(alive: set[int], trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> list[int]:
    """Positions, best first: by the return at the last of the rungs, then by the sum of the returns at all of them."""
    return sorted(alive, key=lambda position: (*order(returns_by_rung(trials[position], rungs)), position))


def _compare(
    study: Study, sweep: SweepConfig, shard: int, rung: int, populations: Sequence[_Population], alive: set[int]
) -> dict[int, float]:
    """Mean greedy return of each trial alive, by position; returns in the storage are not measured again."""
    updates = sweep.rungs[rung]
    trials = shard_trials(study, shard)
    known = {position: trials[position].intermediate_values.get(updates) for position in alive}
    episodes = sweep.episodes * (LAST_RUNG_EPISODES if rung + 1 == len(sweep.rungs) else 1)
    for population in populations:
        training, config = population.training, population.state.config
        if all(known[position] is not None for position in training):
            continue
        with torch.no_grad(), torch_threads(config.num_threads):
            returns = greedy_returns(
                population.state.learner.evaluated,
                config.environment,
                config.world,
                episodes=episodes,
                seed=stream_seed(sweep.seed, SELECTION, rung),
            )
        for position, mine in zip(training, returns.mean(1).tolist(), strict=True):
            if known[position] is None:
                known[position] = mine
                report(study, trials[position], updates=updates, mean_return=mine)
    return {position: value for position, value in known.items() if value is not None}
