"""Shards of a sweep: how trials are compared, and that none is lost or told twice when their process is killed."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial

from dqn.presets import PRESETS
from dqn.training.checkpoint import CheckpointError
from dqn.training.steps import advance
from flows.search.report import _totals
from flows.search.settings import SweepConfig
from flows.search.shard import Progress, run_shard
from flows.search.spaces import Choice, Range, Space
from flows.search.study import begin_study, claim, read_study
from flows.search.trials import DIVERGED, configuration, ranking, returns_by_rung
from tests.support.flows.sweeps import SMALL, sweep

ONE = Space(dimensions={"gamma": Range(low=0.9, high=0.99)})


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/optuna.db")
    monkeypatch.setitem(PRESETS, "cartpole", SMALL)


def try_all(name: str, settings: SweepConfig, directory: Path, **options: Any) -> list[FrozenTrial]:
    study = begin_study(name, settings)
    for shard in range(settings.shards):
        run_shard(study, settings, shard, directory=directory, **options)
    return study.get_trials()


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_half_of_the_trials_go_on_at_each_rung_and_they_are_the_better_half(tmp_path: Path, method: Any) -> None:
    settings = sweep(method=method, trials=11, shard_trials=8)
    seen: list[Progress] = []
    trials = try_all("halved", settings, tmp_path, on_progress=seen.append)
    assert [trial.user_attrs["shard"] for trial in trials] == [0] * 8 + [1] * 3
    for mine, reaching in ((trials[:8], [8, 4, 2]), (trials[8:], [3, 2, 1])):
        for rung, expected in enumerate(reaching):
            reached = [trial for trial in mine if len(returns_by_rung(trial, settings.rungs)) > rung]
            assert len(reached) == expected
            left = [t for t in reached if len(returns_by_rung(t, settings.rungs)) == rung + 1]
            stayed = [t for t in reached if t not in left]
            at = settings.rungs[rung]
            if stayed:
                assert max(t.intermediate_values[at] for t in left) <= min(t.intermediate_values[at] for t in stayed)
    states = [trial.state for trial in trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)) == (3, 8)
    assert all(trial.value == list(trial.intermediate_values.values())[-1] for trial in trials)
    assert [p.updates for p in seen if p.shard == 0][-1] == settings.updates(0) == 8 * 4 + 4 * 4 + 2 * 8
    assert settings.budget == settings.updates(0) + settings.updates(1)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_sweep_that_goes_on_trains_no_finished_shard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    trained: list[int] = []

    def counted(state: Any, updates: int, **options: Any) -> None:
        before = state.learner.updates
        advance(state, updates, **options)
        trained.append(state.learner.updates - before)

    monkeypatch.setattr("flows.search.shard.advance", counted)
    ranges: dict[str, Any] = {"learning_rate": Range(low=1e-3, high=1e-2, log=True), "gamma": Range(low=0.9, high=0.99)}
    settings = sweep(method=method, space=Space(dimensions=ranges), trials=12, shard_trials=4)
    study = begin_study("stopped", settings)
    for shard in (0, 1):
        run_shard(study, settings, shard, directory=tmp_path)
    before, once = outcome(study.get_trials()), sum(trained)
    assert once > 0
    left_over = tmp_path / "stopped-001-00.ckpt"
    left_over.touch()
    trained.clear()
    seen: list[Progress] = []
    for shard in (0, 1):
        run_shard(study, settings, shard, directory=tmp_path, on_progress=seen.append)
    assert sum(trained) == 0
    assert outcome(study.get_trials()) == before
    assert not left_over.exists()
    assert [(p.shard, p.updates, p.trials) for p in seen] == [(k, settings.updates(k), 0) for k in (0, 1)]
    run_shard(study, settings, 2, directory=tmp_path)
    assert 2 * sum(trained) == once


def test_a_member_of_a_shard_trains_what_its_trial_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advanced: list[tuple[int, dict[int, Any]]] = []

    def watched(state: Any, updates: int, **options: Any) -> None:
        agents = state.agents.tolist()
        own = [vars(state.hyperparameters.select(torch.tensor([a]))) for a in agents]
        advanced.append((updates, {a: vars(state.config) | values for a, values in zip(agents, own, strict=True)}))
        advance(state, updates, **options)

    monkeypatch.setattr("flows.search.shard.advance", watched)
    settings = sweep()
    trials = try_all("configured", settings, tmp_path)
    wanted = [configuration(trial, settings) for trial in trials]
    first = [config for updates, configs in advanced if updates == 4 for config in configs.values()]
    searched = ("learning_rate", "learning_rate_end", "gamma", "reward_scale", "n_step")

    def values(config: dict[str, Any]) -> tuple[float, ...]:
        return tuple(config[name] for name in searched)

    assert sorted(map(values, first)) == sorted(values(vars(config)) for config in wanted)
    assert len({config["n_step"] for config in first}) == 2  # two populations, and in each a structure


def test_what_cannot_be_trained_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    dimensions = {"min_replay_batches": Choice(values=(2, 20)), "batch_size": Choice(values=(8, 16))}
    settings = sweep(space=Space(dimensions=dimensions), trials=12, shard_trials=12)
    trials = try_all("failing", settings, tmp_path)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.params == {"min_replay_batches": 20, "batch_size": 16} for trial in failed)  # 320 of 200
    others = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(others) == 12 - len(failed)


def test_a_checkpoint_of_another_sweep_is_refused(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.updates >= 16:
            raise KeyboardInterrupt

    dimensions = {"gamma": Range(low=0.9, high=0.99)}
    settings = sweep(space=Space(dimensions=dimensions))
    with pytest.raises(KeyboardInterrupt):
        try_all("one", settings, tmp_path, on_progress=stop)
    (checkpoint,) = tmp_path.glob("one-*.ckpt")
    checkpoint.rename(tmp_path / checkpoint.name.replace("one", "two"))
    with pytest.raises(CheckpointError, match="belongs to another configuration: seed"):
        try_all("two", dataclasses.replace(settings, seed=1), tmp_path)


WORKERS = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from dqn.presets import PRESETS
from flows.search import shard as shards, study as studies
from tests.support.flows.sweeps import SMALL

PRESETS["cartpole"] = dataclasses.replace(SMALL, checkpoint_interval=0.0)

def killing(call, count):
    def counted(*args, **kwargs):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

def work(where, count, *numbers):
    if where == "entering":
        studies.create_trial = killing(studies.create_trial, count)
    elif where == "training":
        shards.Progress = killing(shards.Progress, count)
    elif where != "nowhere":
        setattr(shards, where, killing(getattr(shards, where), count))
    study, sweep = studies.read_study("swept")
    for shard in numbers:
        shards.run_shard(study, sweep, shard, directory=Path(sys.argv[1]))

for together in json.loads(sys.argv[2]):
    children = {}
    for worker in together:
        if child := os.fork():
            children[child] = worker
            continue
        work(*worker)
        os._exit(0)
    for child, worker in children.items():
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed if worker[0] != "nowhere" else status == 0, (worker, status)
    trials = studies.read_study("swept")[0].get_trials()
    print(json.dumps({t.number: str(t.datetime_complete) for t in trials if t.state.is_finished()}), flush=True)
"""


def work(directory: Path, *turns: list[tuple[Any, ...]]) -> list[dict[str, str]]:
    """Let workers work, those of a turn at once: each until it is killed while it does something for the n-th time.

    Returns the trials that had an end after each turn, with its time.
    """
    command = [sys.executable, "-c", WORKERS, str(directory), json.dumps(turns)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def outcome(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.user_attrs["shard"], t.params, t.state, t.values, t.intermediate_values) for t in trials]


@pytest.mark.slow
def test_a_killed_worker_decides_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    ranges: dict[str, Any] = {"learning_rate": Range(low=1e-3, high=1e-2, log=True), "gamma": Range(low=0.9, high=0.99)}
    settings = sweep(method="random", space=Space(dimensions=ranges), trials=6, shard_trials=6)
    unbroken = begin_study("unbroken", settings)
    run_shard(unbroken, settings, 0, directory=tmp_path)
    swept = begin_study("swept", settings)
    claim(swept, settings, 0)
    kills = [("training", 9), ("report", 7), ("training", 3), ("tell", 2)]
    ends = work(tmp_path, *([(where, count, 0)] for where, count in [*kills, ("nowhere", 0)]))
    assert outcome(swept.get_trials()) == outcome(unbroken.get_trials())
    for earlier, later in itertools.pairwise(ends):
        assert earlier.items() <= later.items()  # an end is told once
    assert len(ends[-1]) == 6
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.slow
def test_a_worker_killed_while_it_enters_its_trials_enters_the_others_later(tmp_path: Path) -> None:
    settings = sweep(method="random")
    swept = begin_study("swept", settings)
    work(tmp_path, [("entering", 4, 0)])
    assert len(swept.get_trials()) == 3
    work(tmp_path, [("nowhere", 0, 0)])
    trials = swept.get_trials()
    assert len({str(trial.params) for trial in trials}) == 8
    assert all(trial.state.is_finished() for trial in trials)


@pytest.mark.slow
def test_workers_at_once_try_every_shard_once(tmp_path: Path) -> None:
    settings = sweep(method="random", trials=20, shard_trials=4)
    study = begin_study("swept", settings)
    at_once = [("nowhere", 0, 0, 3), ("tell", 3, 1), ("nowhere", 0, 2, 4)]
    before, after = work(tmp_path, at_once, [("nowhere", 0, 1)])
    assert before.items() <= after.items()
    trials = study.get_trials()
    assert sorted(trial.user_attrs["shard"] for trial in trials) == [k for k in range(5) for _ in range(4)]
    assert [trial.number for trial in trials] == list(range(20))
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)


def test_a_trial_that_diverges_is_named_and_in_no_ranking_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poisoned: list[int] = []

    def diverging(state: Any, updates: int, **options: Any) -> None:
        advance(state, updates, **options)
        if updates == 8:
            poisoned.append(int(state.agents[0]))
            state.learner.online.biases[0][0] = torch.nan
            advance(state, updates)

    monkeypatch.setattr("flows.search.shard.advance", diverging)
    settings = sweep(method="random", space=ONE)
    trials = try_all("diverging", settings, tmp_path)
    (number,) = poisoned
    gone = trials[number]
    assert gone.user_attrs[DIVERGED] == "after update 8: weights or moments are not finite"
    assert gone.state == TrialState.PRUNED
    assert f"trial {number} diverged after update 8: weights or moments are not finite" in caplog.text
    assert {trial.number for trial in ranking(trials, settings.rungs)} == set(range(8)) - {number}
    assert all(trial.state.is_finished() for trial in trials)
    study, _ = read_study("diverging")
    assert f"1 diverged and are in no ranking: trial {number} after update 8: weights" in _totals(study, settings)


def test_a_finalist_of_which_an_agent_diverged_is_no_finalist() -> None:
    def tried(number: int, value: float, **attributes: Any) -> FrozenTrial:
        trial = create_trial(state=TrialState.COMPLETE, value=value, intermediate_values={4: value})
        trial.number = number
        trial.set_user_attr("shard", 0)
        for name, given in attributes.items():
            trial.set_user_attr(name, given)
        return trial

    trials = [tried(0, 1.0), tried(1, 2.0), tried(2, 9.0, finalist=0), tried(3, 5.0, finalist=1)]
    assert [trial.number for trial in ranking(trials, (4,))] == [0, 1]
    trials.append(tried(4, 9.0, finalist=0, diverged="after update 3: loss"))
    assert [trial.number for trial in ranking(trials, (4,))] == [1, 0]
