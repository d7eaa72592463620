"""The study of a sweep: its settings, whose trial is whose, and what is told of each, in Optuna's storage.

A shard's trials are entered, running and with the shard's number, before the first of them trains. Whoever takes the
shard over finds them there: none is lost, and none that has an end is given a second one.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import optuna
from optuna import Study, Trial
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from dqn.seeding import TRAINING, stream_seed
from flows.errors import InputError
from flows.search.settings import FINAL_SEEDS, SweepConfig
from flows.search.trials import DIVERGED, FINALIST, SHARD, ranking
from flows.uris import connect_args, redacted, sqlite_uri

_SETTINGS: Final = "sweep"


class ShardError(RuntimeError):
    """Shards whose runs ended without having tried their trials; the message names the runs."""


def storage_url() -> str:
    """Where studies are kept: `OPTUNA_STORAGE`, or a file in this directory."""
    return os.environ.get("OPTUNA_STORAGE") or sqlite_uri("optuna.db")


def begin_study(name: str, sweep: SweepConfig) -> Study:
    """The study of a name, new or as it was left; an existing one keeps its settings.

    Raises:
        InputError: if the storage cannot be used.
    """
    study = _of_storage(
        lambda: optuna.create_study(storage=_storage(), study_name=name, direction="maximize", load_if_exists=True)
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
            f"there is no study {name!r} in {redacted(storage_url())}; its name is printed when a sweep starts"
        ) from error
    return study, SweepConfig.from_dict(study.user_attrs[_SETTINGS])


def claim(study: Study, sweep: SweepConfig, shard: int) -> list[FrozenTrial]:
    """The trials of a shard by number, finished or not; those that are missing are entered.

    They are sampled; in the final they are the finalists again, with several agents each.
    """
    everyone = study.get_trials(deepcopy=False)
    mine = [trial for trial in everyone if trial.user_attrs.get(SHARD) == shard]
    entries: list[tuple[dict[str, Any], dict[str, Any]]]
    if sweep.is_final(shard):
        finalists = _finalists([trial for trial in everyone if FINALIST not in trial.user_attrs], sweep)
        agents = [trial for trial in finalists for _ in range(FINAL_SEEDS)][len(mine) :]
        entries = [(trial.params, {FINALIST: trial.number}) for trial in agents]
    else:
        entries = [(sampled, {}) for sampled in _sampled(study, sweep, shard, everyone, sweep.size(shard) - len(mine))]
    for params, attributes in entries:
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=sweep.space.distributions,
            user_attrs={SHARD: shard, **attributes},
        )
        study.add_trial(trial)
    return shard_trials(study, shard)


def shard_trials(study: Study, shard: int) -> list[FrozenTrial]:
    """The trials that were entered for a shard, by number."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(SHARD) == shard]
    return sorted(trials, key=lambda trial: trial.number)


def report(study: Study, trial: FrozenTrial, *, updates: int, mean_return: float) -> None:
    """Keep what a trial returned at a rung."""
    Trial(study, trial._trial_id).report(mean_return, updates)


def tell(study: Study, sweep: SweepConfig, trial: FrozenTrial, *, updates: int, mean_return: float) -> None:
    """End a trial, unless it has an end: complete at the last rung, pruned before."""
    if updates == sweep.rungs[-1]:
        study.tell(trial.number, mean_return, skip_if_finished=True)
    else:
        study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def tell_diverged(study: Study, trial: FrozenTrial, why: str) -> None:
    """End a trial that diverged, unless it has an end: as pruned, because the sampler learns from those."""
    if trial.state.is_finished():
        return
    Trial(study, trial._trial_id).set_user_attr(DIVERGED, why)
    study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def _finalists(trials: Sequence[FrozenTrial], sweep: SweepConfig) -> list[FrozenTrial]:
    """The best trials, and the preset's own in place of the last of them where it is not one: it is to be beaten."""
    ranked = ranking(trials, sweep.rungs)
    best, others = ranked[: sweep.finalists], ranked[sweep.finalists :]
    preset = [trial for trial in others if trial.params == sweep.space.values(sweep.base)]
    return [*best[: sweep.finalists - len(preset[:1])], *preset[:1]]


def _sampled(
    study: Study, sweep: SweepConfig, shard: int, everyone: Sequence[FrozenTrial], missing: int
) -> list[dict[str, Any]]:
    """Values of the trials that a shard still lacks, given all that is known by now.

    Asked in memory, of a copy: in the storage each value would be a transaction of its own.
    """
    copy = optuna.create_study(direction="maximize", sampler=_sampler(sweep, shard, sweep.size(shard) - missing))
    copy.add_trials(everyone)
    if not everyone and sweep.method != "random" and (known := sweep.space.values(sweep.base)):
        copy.enqueue_trial(known)  # where one has come to by other means is the first thing to compare with
    return [copy.ask(sweep.space.distributions).params for _ in range(missing)]


def _sampler(sweep: SweepConfig, shard: int, entered: int) -> BaseSampler:
    seed = stream_seed(sweep.seed, TRAINING, shard, entered)
    if sweep.method == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed)  # counts trials that run as bad ones, so that a batch of them spreads


def _storage() -> RDBStorage:
    url = storage_url()
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"connect_args": connect_args(url)})
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
            f"the storage of studies {redacted(storage_url())} cannot be used ({redacted(first_line)}); "
            "set OPTUNA_STORAGE to the URL of a database that can"
        ) from error
