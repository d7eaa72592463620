"""Small studies, made in a moment."""

import dataclasses
from typing import Any

import optuna
import pytest
from optuna import Study
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from dqn.presets import PRESETS
from flows.search.settings import SweepConfig
from flows.search.spaces import SPACES, Choice, Range, Space
from flows.search.study import begin_study

SPACE = Space(
    dimensions={
        "learning_rate": Range(low=1e-3, high=1e-2, log=True),
        "gamma": Range(low=0.9, high=0.99),
        "n_step": Choice(values=(1, 3)),
    }
)


def sweep(**changes: Any) -> SweepConfig:
    small = SweepConfig(space=SPACE, trials=8, shard_trials=8, rungs=(4, 8, 16), episodes=1, finalists=0)
    return dataclasses.replace(small, **changes)


def told(name: str, *, returns: list[list[float]], settings: SweepConfig | None = None) -> Study:
    """A study of trials that returned this at the rungs they reached."""
    settings = settings or sweep(space=SPACES["small"], trials=len(returns), shard_trials=len(returns))
    study = begin_study(name, settings)
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = settings.space.distributions
    for mine in returns:
        known = dict(zip(settings.rungs, mine, strict=False))
        last = len(mine) == len(settings.rungs)
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if last else TrialState.PRUNED,
                value=mine[-1],
                params=sampler.ask(distributions).params,
                distributions=distributions,
                intermediate_values=known,
                user_attrs={"shard": 0},
            )
        )
    return study


def keep_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep studies in memory: the tables of a file take a second to make, and all that is told is a transaction."""
    storage = InMemoryStorage()
    monkeypatch.setattr("flows.search.study._storage", lambda: storage)


SMALL = dataclasses.replace(
    PRESETS["cartpole"], num_envs=4, hidden_sizes=(8,), batch_size=8, replay_capacity=200, min_replay_batches=2
)
