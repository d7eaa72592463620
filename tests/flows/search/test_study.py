"""The study of a sweep: its storage, what is entered for a shard, and what is told of a trial."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from dqn.seeding import TRAINING
from flows.failures.errors import InputError
from flows.search import study as module
from flows.search.study import (
    _sampler,
    _storage,
    begin_study,
    claim,
    read_study,
    report,
    shard_trials,
    storage_url,
    tell,
)
from tests.support.flows.sweeps import keep_in_memory, sweep, told

PRAGMAS = {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 60_000}


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


@pytest.mark.usefixtures("in_memory")
def test_a_study_keeps_its_settings_and_is_found_by_name() -> None:
    begin_study("kept", sweep())
    begin_study("kept", sweep(trials=99))
    assert read_study("kept")[1] == sweep()
    with pytest.raises(InputError, match="there is no study 'other' in sqlite"):
        read_study("other")


@pytest.mark.usefixtures("in_memory")
def test_a_study_by_a_method_that_is_gone_is_refused() -> None:
    begin_study("former", sweep()).set_user_attr("sweep", {**sweep().to_dict(), "method": "pareto"})
    with pytest.raises(InputError, match="method must be one of tpe, random, got 'pareto'"):
        read_study("former")


def test_a_storage_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:////nowhere/at/all.db")
    named = r"sqlite:////nowhere/at/all\.db cannot be used \([^\n]*unable to open database file\); set OPTUNA_STORAGE"
    with pytest.raises(InputError, match=named):
        begin_study("any", sweep())
    with pytest.raises(InputError, match=named):
        read_study("any")
    monkeypatch.delenv("OPTUNA_STORAGE")
    monkeypatch.chdir(tmp_path)
    assert storage_url() == f"sqlite:///{tmp_path}/optuna.db"


def test_a_file_of_studies_is_written_ahead_and_waits_for_other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/optuna.db")
    with _storage().engine.connect() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS]
    assert dict(zip(PRAGMAS, values, strict=True)) == PRAGMAS


def test_a_server_of_studies_is_asked_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(*url: str, **options: Any) -> str:
        asked.append((url, options))
        return "its storage"

    monkeypatch.setattr(module, "RDBStorage", opened)
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://studies")
    assert _storage() == "its storage"  # type: ignore[comparison-overlap] # a stand-in
    options = {"engine_kwargs": {"connect_args": {"connect_timeout": 5}}}  # it does not answer: said in seconds
    assert asked == [(("postgresql://studies",), options)]


@pytest.mark.usefixtures("in_memory")
def test_the_trials_of_a_shard_are_entered_once_each_with_its_number() -> None:
    settings = sweep(method="random", trials=6, shard_trials=4)
    study = begin_study("entered", settings)
    second, first = claim(study, settings, 1), claim(study, settings, 0)
    assert [trial.number for trial in second] == [0, 1]
    assert [trial.number for trial in first] == [2, 3, 4, 5]
    assert {trial.state for trial in first + second} == {TrialState.RUNNING}
    assert [trial.user_attrs for trial in first + second] == [{"shard": 0}] * 4 + [{"shard": 1}] * 2
    assert len({str(trial.params) for trial in first + second}) == 6
    assert first[0].distributions == settings.space.distributions
    assert claim(study, settings, 0) == first == shard_trials(study, 0)
    assert len(study.get_trials()) == 6


@pytest.mark.usefixtures("in_memory")
def test_what_a_shard_lacks_is_sampled_by_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sweep(method="random", trials=8, shard_trials=4, seed=7)
    study = begin_study("in part", settings)
    claim(study, dataclasses.replace(settings, trials=7), 1)  # three of four
    asked: list[tuple[int, ...]] = []

    def drawn(*what: int) -> int:
        asked.append(what)
        return 0

    monkeypatch.setattr(module, "stream_seed", drawn)
    assert len(claim(study, settings, 1)) == 4
    claim(study, settings, 0)
    assert asked == [(7, TRAINING, 1, 3), (7, TRAINING, 0, 0)]


@pytest.mark.usefixtures("in_memory")
def test_a_shard_is_sampled_by_what_the_trials_before_it_returned() -> None:
    settings = sweep(trials=40, shard_trials=20)
    learned = []
    for name, sign in (("rising", 1.0), ("falling", -1.0)):
        study = told(name, returns=[[sign * k] * 3 for k in range(20)], settings=settings)
        learned.append([trial.params for trial in claim(study, settings, 1)])
    assert len(learned[0]) == len(learned[1]) == 20
    assert learned[0] != learned[1]


def test_a_method_is_a_sampler() -> None:
    kinds = {method: type(_sampler(sweep(method=method), 0, 0)) for method in ("tpe", "random")}
    assert kinds == {"tpe": TPESampler, "random": RandomSampler}


def ended(method: Any, *updates: int) -> FrozenTrial:
    """A trial that returned ten times the updates, told at the last of these."""
    settings = sweep(method=method)
    study = begin_study("ended", settings)
    claim(study, settings, 0)
    for rung in updates:
        trial = study.get_trials()[1]
        report(study, trial, updates=rung, mean_return=10.0 * rung)
    for mean in (10.0 * updates[-1], 0.0):  # an end is told once
        tell(study, settings, trial, updates=updates[-1], mean_return=mean)
    assert [trial.state for trial in study.get_trials() if trial.number != 1] == [TrialState.RUNNING] * 7
    return study.get_trials()[1]


@pytest.mark.usefixtures("in_memory")
def test_a_trial_is_complete_at_the_last_rung_and_pruned_before() -> None:
    last = ended("tpe", 4, 8, 16)
    assert (last.state, last.values, last.intermediate_values) == (
        TrialState.COMPLETE,
        [160.0],
        {4: 40.0, 8: 80.0, 16: 160.0},
    )


@pytest.mark.usefixtures("in_memory")
def test_a_trial_that_leaves_before_is_pruned() -> None:
    left = ended("random", 4, 8)
    assert (left.state, left.values, left.intermediate_values) == (TrialState.PRUNED, [80.0], {4: 40.0, 8: 80.0})
