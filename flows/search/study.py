"""The study of a sweep: its settings, whose trial is whose, and what is told of each, in Optuna's storage.

A shard's trials are entered, running and with the shard's number, before the first of them trains. Whoever takes the
shard over finds them there: none is lost, and none that has an end is given a second one.
"""

import dataclasses
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import optuna
from optuna import Study, Trial
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from dqn.config import DQNConfig
from dqn.presets import PRESETS, PresetName
from dqn.seeding import TRAINING, stream_seed
from flows.parameters import InputError, check_trainable
from flows.search.spaces import Range, Space, check_space

Method = Literal["tpe", "random", "pareto", "pbt"]

RUNGS: Final[dict[str, tuple[int, ...]]] = {
    "cartpole": (75, 150, 300, 600),
    "acrobot": (4_000, 8_000, 16_000, 32_000),
    "mountaincar": (3_000, 6_000, 12_000, 24_000),
    "lunarlander": (3_750, 7_500, 15_000, 30_000),
}
"""Updates after which trials are compared, where a sweep names none."""

_SETTINGS: Final = "sweep"
_SHARD: Final = "shard"
_RETURNS: Final = "returns"
_VALUES: Final = "values"
_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


class ShardError(RuntimeError):
    """Shards whose runs ended without having tried their trials; the message names the runs."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What a sweep tries, and what it may cost."""

    space: Space
    preset: PresetName = "cartpole"
    """Where every value comes from that is not searched."""
    method: Method = "tpe"
    """tpe: Optuna's estimator of good values; random; pareto: return against environment steps; pbt: populations."""
    trials: int = 1_024
    """Configurations that are tried."""
    shard_trials: int = 128
    """Trials that are sampled and compared together, in one process."""
    rungs: tuple[int, ...]
    """Updates after which the trials of a shard are compared."""
    keep: float = 0.5
    """Share of a shard's trials that goes on after each rung but the last."""
    episodes: int = 10
    """Greedy episodes of each comparison, on seeds of selection; five times as many at the last rung."""
    seed: int = 0

    @property
    def base(self) -> DQNConfig:
        """The preset."""
        return PRESETS[self.preset]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.trials // self.shard_trials)

    def size(self, shard: int) -> int:
        """Trials of a shard; the last one may have fewer."""
        return min(self.shard_trials, self.trials - shard * self.shard_trials)

    def alive(self, trials: int, rung: int) -> int:
        """How many of a shard's trials train up to a rung."""
        if self.method == "pbt":
            return trials
        return max(1, round(trials * self.keep**rung))

    def updates(self, shard: int) -> int:
        """Gradient updates that a shard may take, all its trials together."""
        steps = [last - first for first, last in zip((0, *self.rungs), self.rungs, strict=False)]
        return sum(self.alive(self.size(shard), rung) * step for rung, step in enumerate(steps))

    @property
    def budget(self) -> int:
        """Gradient updates of the whole sweep; it is the same whatever the trials turn out to be worth."""
        return sum(self.updates(shard) for shard in range(self.shards))

    def check(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            InputError: naming what was given, and what is expected.
        """
        if self.preset not in RUNGS:
            raise InputError(f"the preset {self.preset!r} is not searched; those that are: {', '.join(RUNGS)}")
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        for name in ("trials", "shard_trials", "episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.keep < 1:
            raise InputError(f"keep must be a share between 0 and 1, got {self.keep}")
        if not self.rungs or any(b <= a for a, b in zip((0, *self.rungs), self.rungs, strict=False)):
            raise InputError(f"rungs must be numbers of updates that rise, got {self.rungs}")
        check_trainable(dataclasses.replace(self.base, num_agents=1))
        check_space(self.space, self.base)
        if self.method == "pbt" and not any(isinstance(d, Range) for d in self.space.dimensions.values()):
            raise InputError("population-based training perturbs ranges, and the space has choices alone")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**dataclasses.asdict(self), "space": self.space.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "SweepConfig":
        """Inverse of `to_dict`."""
        return cls(**{**content, "space": Space.from_dict(content["space"]), "rungs": tuple(content["rungs"])})


def storage_url() -> str:
    """Where studies are kept: `OPTUNA_STORAGE`, or a file in this directory."""
    return os.environ.get("OPTUNA_STORAGE") or f"sqlite:///{Path('optuna.db').absolute()}"


def begin_study(name: str, sweep: SweepConfig) -> Study:
    """The study of a name, new or as it was left; an existing one keeps its settings.

    Raises:
        InputError: if the storage cannot be used.
    """
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    directions = [maximize, minimize] if sweep.method == "pareto" else [maximize]
    study = _of_storage(
        lambda: optuna.create_study(storage=_storage(), study_name=name, directions=directions, load_if_exists=True)
    )
    if _SETTINGS not in study.user_attrs:
        study.set_user_attr(_SETTINGS, sweep.to_dict())
    return study


def read_study(name: str) -> tuple[Study, SweepConfig]:
    """A study that was begun, and its settings.

    Raises:
        InputError: if there is none of this name, or the storage cannot be used.
    """
    try:
        study = _of_storage(lambda: optuna.load_study(storage=_storage(), study_name=name))
    except KeyError as error:
        raise InputError(
            f"there is no study {name!r} in {storage_url()}; its name is printed when a sweep starts"
        ) from error
    return study, SweepConfig.from_dict(study.user_attrs[_SETTINGS])


def claim(study: Study, sweep: SweepConfig, shard: int) -> list[FrozenTrial]:
    """The trials of a shard by number, finished or not; those that are missing are sampled and entered."""
    everyone = study.get_trials(deepcopy=False)
    mine = [trial for trial in everyone if trial.user_attrs.get(_SHARD) == shard]
    missing = sweep.size(shard) - len(mine)
    for values in _sampled(study, sweep, shard, everyone, missing):
        distributions = sweep.space.distributions
        attributes = {_SHARD: shard}
        study.add_trial(
            create_trial(state=TrialState.RUNNING, params=values, distributions=distributions, user_attrs=attributes)
        )
    return shard_trials(study, shard)


def shard_trials(study: Study, shard: int) -> list[FrozenTrial]:
    """The trials that were entered for a shard, by number."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(_SHARD) == shard]
    return sorted(trials, key=lambda trial: trial.number)


def report(study: Study, trial: FrozenTrial, *, updates: int, mean_return: float) -> None:
    """Keep what a trial returned at a rung."""
    live = Trial(study, trial._trial_id)
    if len(study.directions) == 1:
        live.report(mean_return, updates)
    else:  # Optuna keeps no values on the way where there are two
        live.set_user_attr(_RETURNS, {**trial.user_attrs.get(_RETURNS, {}), str(updates): mean_return})


def tell(study: Study, sweep: SweepConfig, trial: FrozenTrial, *, updates: int, mean_return: float, steps: int) -> None:
    """End a trial, unless it has an end: complete at the last rung, pruned before."""
    if sweep.method == "pareto":
        study.tell(trial.number, [mean_return, float(steps)], skip_if_finished=True)
    elif updates == sweep.rungs[-1]:
        study.tell(trial.number, mean_return, skip_if_finished=True)
    else:
        study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def keep_values(study: Study, trial: FrozenTrial, config: DQNConfig, space: Space) -> None:
    """Keep what a trial's searched fields came to be."""
    values = {name: getattr(config, name) for name in space.dimensions}
    Trial(study, trial._trial_id).set_user_attr(
        _VALUES, {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    )


def configuration(trial: FrozenTrial, sweep: SweepConfig) -> DQNConfig:
    """What a trial trains; of one that evolved what it came to be."""
    return sweep.space.configuration(sweep.base, {**trial.params, **trial.user_attrs.get(_VALUES, {})})


def ranking(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> list[FrozenTrial]:
    """Finished trials, best first: by the rung they reached, what they returned there, and at all rungs on the way."""

    def standing(trial: FrozenTrial) -> tuple[int, float, float, int]:
        returns = returns_by_rung(trial, rungs)
        return -len(returns), -returns[-1], -sum(returns) / len(returns), trial.number

    finished = [trial for trial in trials if trial.state in _FINISHED and returns_by_rung(trial, rungs)]
    return sorted(finished, key=standing)


def returns_by_rung(trial: FrozenTrial, rungs: Sequence[int]) -> list[float]:
    """Mean returns at the rungs a trial reached."""
    known = intermediate(trial)
    return [known[updates] for updates in rungs if updates in known]


def intermediate(trial: FrozenTrial) -> dict[int, float]:
    """Mean returns by the updates after which they were measured."""
    return trial.intermediate_values or {int(k): v for k, v in trial.user_attrs.get(_RETURNS, {}).items()}


def _sampled(
    study: Study, sweep: SweepConfig, shard: int, everyone: Sequence[FrozenTrial], missing: int
) -> list[dict[str, Any]]:
    """Values of the trials that a shard still lacks, given all that is known by now.

    Asked in memory, of a copy: in the storage each value would be a transaction of its own.
    """
    copy = optuna.create_study(directions=study.directions, sampler=_sampler(sweep, shard, sweep.size(shard) - missing))
    copy.add_trials(everyone)
    return [copy.ask(sweep.space.distributions).params for _ in range(missing)]


def _sampler(sweep: SweepConfig, shard: int, entered: int) -> BaseSampler:
    seed = stream_seed(sweep.seed, TRAINING, shard, entered)
    if sweep.method in ("random", "pbt"):
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed)  # counts trials that run as bad ones, so that a batch of them spreads


def _storage() -> RDBStorage:
    url = storage_url()
    if not url.startswith("sqlite"):
        return RDBStorage(url)
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})  # several workers write to the file
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()  # the connection from before the line above
    return storage


def _write_ahead(connection: sqlite3.Connection, _: object) -> None:
    """Have SQLite append to a log and let the system write it: a trial has a dozen transactions, of 7 ms each else."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _of_storage(work: Callable[[], Study]) -> Study:
    try:
        return work()
    except (SQLAlchemyError, StorageInternalError, ModuleNotFoundError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(
            f"the storage of studies {storage_url()} cannot be used ({first_line}); "
            "set OPTUNA_STORAGE to the URL of a database that can"
        ) from error
