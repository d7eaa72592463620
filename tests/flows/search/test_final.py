"""The final of a sweep: its finalists, its winner, and the place of the preset in it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from dqn.presets import PRESETS
from flows.search.record import table
from flows.search.report import text
from flows.search.settings import FINAL_SEEDS, SweepConfig
from flows.search.shard import run_shard
from flows.search.spaces import Choice, Range, Space
from flows.search.study import begin_study, claim
from flows.search.trials import FINALIST, final_returns, ranking, returns_by_rung
from tests.support.flows.sweeps import SMALL, SPACE, keep_in_memory, sweep, told

WITH_PRESET = Space(
    dimensions={**SPACE.dimensions, "gamma": Range(low=0.9, high=0.999), "n_step": Choice(values=(1, 5))}
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)
    monkeypatch.setitem(PRESETS, "cartpole", SMALL)


def returned(trial: FrozenTrial, study: Study, settings: SweepConfig, *returns: float) -> None:
    """End a trial that was entered."""
    for updates, mean in zip(settings.rungs, returns, strict=False):
        study._storage.set_trial_intermediate_value(trial._trial_id, updates, mean)
    study.tell(trial.number, returns[-1])


def test_the_best_trials_train_again_by_several_agents_each() -> None:
    settings = sweep(trials=5, shard_trials=5, finalists=2)
    returns = [[1.0], [5.0, 6.0, 7.0], [2.0], [6.0, 7.0, 8.0], [3.0, 3.0]]
    study = told("finalists", returns=returns, settings=settings)
    entered = claim(study, settings, 1)
    assert [trial.user_attrs[FINALIST] for trial in entered] == [3] * FINAL_SEEDS + [1] * FINAL_SEEDS
    everyone = study.get_trials()
    assert all(trial.params == everyone[trial.user_attrs[FINALIST]].params for trial in entered)
    assert {trial.state for trial in entered} == {TrialState.RUNNING}
    assert claim(study, settings, 1) == entered


def test_a_final_that_was_entered_in_part_is_entered_to_the_end() -> None:
    settings = sweep(trials=3, shard_trials=3, finalists=2)
    study = told("in part", returns=[[5.0, 5.0, 5.0], [6.0, 6.0, 6.0], [1.0]], settings=settings)
    entered = claim(study, settings, 1)
    again = told("again", returns=[[5.0, 5.0, 5.0], [6.0, 6.0, 6.0], [1.0]], settings=settings)
    for trial in entered[:5]:
        again.add_trial(trial)
    finished = [trial.user_attrs[FINALIST] for trial in claim(again, settings, 1)]
    assert finished == [trial.user_attrs[FINALIST] for trial in entered]


def test_the_winner_has_the_greatest_mean_return_in_the_final() -> None:
    settings = sweep(trials=4, shard_trials=4, finalists=2)
    returns = [[1.0], [9.0, 9.0, 9.0], [8.0, 8.0, 8.0], [7.0, 7.0, 7.0]]
    study = told("won", returns=returns, settings=settings)
    first, second = [9.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 1.0]
    for trial, last in zip(claim(study, settings, 1), first + second, strict=True):
        returned(trial, study, settings, 3.0, 3.0, last)
    trials = study.get_trials()
    assert [trial.number for trial in ranking(trials, settings.rungs)] == [2, 1, 3, 0]
    assert final_returns(trials, settings.rungs) == {1: 2.25, 2: 4.0}
    columns = table(ranking(trials, settings.rungs), settings, final_returns(trials, settings.rungs))
    assert (columns["trial"], columns["in the final"]) == ([2, 1, 3, 0], [4.0, 2.25, None, None])
    confirmation: Any = dataclasses.make_dataclass("Confirmation", [("trial", int), ("sentence", str)])(
        2, "Trained anew."
    )
    lines = text(study, settings, confirmation, "r").splitlines()
    assert lines[0].split()[:7] == ["trial", "updates", "mean", "return", "in", "the", "final"]
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["2", "16", "8.0", "4.0"],
        ["1", "16", "9.0", "2.2"],
        ["3", "16", "7.0", "-"],
        ["0", "4", "1.0", "-"],
    ]
    assert (
        "\n4 configurations by tpe, 3 of them trained to the last rung of 16 updates, 2 of these anew by 4 agents "
        f"each; {settings.budget} gradient updates in all.\n"
    ) in "\n".join(lines)


def test_a_trial_of_the_final_has_no_end_yet_while_it_runs() -> None:
    settings = sweep(trials=2, shard_trials=2, finalists=1)
    study = told("running", returns=[[9.0, 9.0, 9.0], [1.0]], settings=settings)
    returned(claim(study, settings, 1)[0], study, settings, 2.0, 2.0, 2.0)
    assert final_returns(study.get_trials(), settings.rungs) == {0: 2.0}


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_begins_at_the_preset_and_random_search_does_not(method: Any) -> None:
    settings = sweep(method=method, space=WITH_PRESET, trials=4, shard_trials=2)
    study = begin_study("begins", settings)
    entered = claim(study, settings, 0)
    preset = {"learning_rate": 7e-3, "gamma": 0.995, "n_step": 5}
    assert [trial.params == preset for trial in entered] == [method != "random", False]
    assert not any(trial.params == preset for trial in claim(study, settings, 1))


def test_a_preset_outside_of_the_space_is_not_tried() -> None:
    for name, dimension in (("gamma", Range(low=0.9, high=0.99)), ("n_step", Choice(values=(1, 3)))):
        space = Space(dimensions={**WITH_PRESET.dimensions, name: dimension})
        assert space.values(SMALL) is None
    ends = Space(dimensions={"gamma": Range(low=0.995, high=0.999), "tau": Range(low=0.1, high=0.2)})
    assert ends.values(SMALL) == {"gamma": 0.995, "tau": 0.2}
    assert Space(dimensions={"hidden_sizes": Choice(values=((8,), (9,)))}).values(SMALL) == {"hidden_sizes": "[8]"}


@pytest.mark.parametrize(("finalists", "expected"), [(2, [1, 0]), (3, [1, 2, 0]), (1, [0]), (5, [1, 2, 3, 0])])
def test_the_preset_is_in_the_final_whatever_it_returned(finalists: int, expected: list[int]) -> None:
    settings = sweep(space=WITH_PRESET, trials=4, shard_trials=4, finalists=finalists)
    study = begin_study("beaten", settings)
    returns = ([1.0], [9.0, 9.0, 9.0], [8.0, 8.0, 8.0], [7.0, 7.0])
    for trial, mine in zip(claim(study, settings, 0), returns, strict=True):
        returned(trial, study, settings, *mine)
    entered = [trial.user_attrs[FINALIST] for trial in claim(study, settings, 1)]
    assert entered == [number for number in expected for _ in range(FINAL_SEEDS)]


def test_a_preset_that_was_tried_several_times_is_in_the_final_once() -> None:
    settings = sweep(space=Space(dimensions={"n_step": Choice(values=(1, 5))}), trials=5, shard_trials=5, finalists=2)
    study = begin_study("several", settings)
    for n_step, mean in ((1, 9.0), (1, 8.0), (5, 3.0), (5, 2.0), (5, 1.0)):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=mean,
                params={"n_step": n_step},
                distributions=settings.space.distributions,
                intermediate_values=dict.fromkeys(settings.rungs, mean),
                user_attrs={"shard": 0},
            )
        )
    entered = [trial.user_attrs[FINALIST] for trial in claim(study, settings, 1)]
    assert entered == [0] * FINAL_SEEDS + [2] * FINAL_SEEDS


def test_no_trial_leaves_a_final(tmp_path: Path) -> None:
    dimensions = {"learning_rate": Range(low=1e-4, high=1e-1, log=True), "gamma": Range(low=0.9, high=0.99)}
    settings = sweep(method="random", space=Space(dimensions=dimensions), trials=6, shard_trials=6, finalists=2)
    study = begin_study("final", settings)
    for shard in (0, 1):
        run_shard(study, settings, shard, directory=tmp_path)
    trials = study.get_trials()
    final = [trial for trial in trials if FINALIST in trial.user_attrs]
    assert len(final) == 2 * FINAL_SEEDS == settings.size(1)
    assert all(len(returns_by_rung(trial, settings.rungs)) == 3 for trial in final)
    assert {trial.state for trial in final} == {TrialState.COMPLETE}
    for trial in final:
        assert trial.params == trials[trial.user_attrs[FINALIST]].params
