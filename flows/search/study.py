"""The study of a sweep in Optuna's storage: its settings, the trials of each shard, their returns and results.

A shard's trials are added, in the state RUNNING and with the shard's number, before the first of them trains. A process
that continues the shard finds them there: no trial is lost, and none ends twice.
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
from flows.failures.errors import FlowError, InputError
from flows.search.settings import FINAL_SEEDS, SweepConfig
from flows.search.trials import DIVERGED, FINALIST, SHARD, ranking
from flows.uris import connect_args, redacted, sqlite_uri

_SETTINGS: Final = "sweep"


class ShardError(FlowError):
    """Runs of shards that failed or were cancelled; the message names the runs."""


def storage_url() -> str:
    """URL of the storage of studies: `OPTUNA_STORAGE`, or a file in this directory."""
    return os.environ.get("OPTUNA_STORAGE") or sqlite_uri("optuna.db")


def begin_study(name: str, sweep: SweepConfig) -> Study:
    """Create the study, or load it if there is one of this name; an existing study keeps its settings.

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
    """An existing study and its settings.

    Raises:
        InputError: if there is no study of this name, it has an unknown method, or the storage cannot be used.
    """
    try:
        study = _of_storage(lambda: optuna.load_study(storage=_storage(), study_name=name))
    except KeyError as error:
        raise InputError(
            f"there is no study {name!r} in {redacted(storage_url())}; its name is printed when a sweep starts"
        ) from error
    return study, SweepConfig.from_dict(study.user_attrs[_SETTINGS])


def claim(study: Study, sweep: SweepConfig, shard: int) -> list[FrozenTrial]:
    """The trials of a shard by number, finished or not; missing ones are added to the study.

    Their values are sampled. In the final they are those of the finalists, several times each.
    """
    known = study.get_trials(deepcopy=False)
    mine = [trial for trial in known if trial.user_attrs.get(SHARD) == shard]
    entries: list[tuple[dict[str, Any], dict[str, Any]]]
    if sweep.is_final(shard):
        finalists = _finalists([trial for trial in known if FINALIST not in trial.user_attrs], sweep)
        agents = [trial for trial in finalists for _ in range(FINAL_SEEDS)][len(mine) :]
        entries = [(trial.params, {FINALIST: trial.number}) for trial in agents]
    else:
        entries = [(sampled, {}) for sampled in _sampled(sweep, shard, known, sweep.size(shard) - len(mine))]
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
    """The trials of a shard in the study, by number."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(SHARD) == shard]
    return sorted(trials, key=lambda trial: trial.number)


def report(study: Study, trial: FrozenTrial, *, updates: int, mean_return: float) -> None:
    """Store a trial's mean return at a rung."""
    Trial(study, trial._trial_id).report(mean_return, updates)


def tell(study: Study, sweep: SweepConfig, trial: FrozenTrial, *, updates: int, mean_return: float) -> None:
    """End a trial, unless it has ended: COMPLETE at the last rung, PRUNED before."""
    if updates == sweep.rungs[-1]:
        study.tell(trial.number, mean_return, skip_if_finished=True)
    else:
        study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def tell_diverged(study: Study, trial: FrozenTrial, why: str) -> None:
    """End a diverged trial, unless it has ended: as PRUNED, because the sampler learns from pruned trials."""
    if trial.state.is_finished():
        return
    Trial(study, trial._trial_id).set_user_attr(DIVERGED, why)
    study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def _finalists(trials: Sequence[FrozenTrial], sweep: SweepConfig) -> list[FrozenTrial]:
    """The best trials; if the preset's trial is not among them, it takes the place of the last one."""
    ranked = ranking(trials, sweep.rungs)
    best, others = ranked[: sweep.finalists], ranked[sweep.finalists :]
    preset = [trial for trial in others if trial.params == sweep.space.values(sweep.base)]
    return [*best[: sweep.finalists - len(preset[:1])], *preset[:1]]


def _sampled(sweep: SweepConfig, shard: int, known: Sequence[FrozenTrial], missing: int) -> list[dict[str, Any]]:
    """Sample values for the missing trials of a shard, given all known trials.

    Sampling uses a copy of the study in memory: in the storage each value would be a transaction.
    """
    copy = optuna.create_study(direction="maximize", sampler=_sampler(sweep, shard, sweep.size(shard) - missing))
    copy.add_trials(known)
    if not known and sweep.method != "random" and (preset := sweep.space.values(sweep.base)):
        copy.enqueue_trial(preset)  # every later trial is compared with it
    return [copy.ask(sweep.space.distributions).params for _ in range(missing)]


def _sampler(sweep: SweepConfig, shard: int, entered: int) -> BaseSampler:
    seed = stream_seed(sweep.seed, TRAINING, shard, entered)
    if sweep.method == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed)  # treats running trials as bad ones, which spreads a batch


def _storage() -> RDBStorage:
    url = storage_url()
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"connect_args": connect_args(url)})
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})  # several processes write to the file
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()  # closes the connection that was opened before the listener
    return storage


def _write_ahead(connection: sqlite3.Connection, _: object) -> None:
    """Use a write-ahead log without fsync per commit: a trial has a dozen transactions, which took 7 ms each."""
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
