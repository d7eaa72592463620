"""What trials came to: which count, which are better, and what one trains."""

from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from dqn.presets import PRESETS
from flows.search.study import begin_study
from flows.search.trials import configuration, final_returns, order, ranking, returns_by_rung
from tests.support.flows.sweeps import SPACE, keep_in_memory, sweep, told

PARAMS = {"learning_rate": 2e-3, "gamma": 0.95, "n_step": 3}


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


def trial(state: TrialState = TrialState.RUNNING, *, returns: dict[int, float] | None = None, **attributes: Any) -> Any:
    return create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params=PARAMS,
        distributions=SPACE.distributions,
        intermediate_values=returns,
        user_attrs=attributes,
    )


def test_the_winner_went_furthest_and_of_equals_learned_soonest() -> None:
    returns = [[500.0], [90.0, 80.0], [10.0, 20.0, 400.0], [10.0, 30.0, 400.0], [10.0, 20.0, 300.0]]
    settings = sweep(trials=5, shard_trials=5)
    study = told("ranked", returns=returns, settings=settings)
    ranked = ranking(study.get_trials(), settings.rungs)
    assert [trial.number for trial in ranked] == [3, 2, 4, 1, 0]
    assert returns_by_rung(ranked[0], settings.rungs) == [10.0, 30.0, 400.0]


def test_a_greater_last_return_is_better_whatever_the_earlier_ones() -> None:
    assert order([1.0, 5.0]) < order([9.0, 4.0]) < order([8.0, 4.0])


def test_trials_that_run_have_failed_or_were_not_compared_have_no_place() -> None:
    study = begin_study("states", sweep())
    known = {4: 7.0}
    study.add_trial(trial(TrialState.RUNNING, returns=known))
    study.add_trial(trial(TrialState.FAIL, returns=known))
    study.add_trial(trial(TrialState.PRUNED))
    study.add_trial(trial(TrialState.PRUNED, returns={4: 6.0}))
    study.add_trial(trial(TrialState.COMPLETE, returns={4: 5.0}))
    assert [ranked.number for ranked in ranking(study.get_trials(), (4, 8))] == [3, 4]


def test_a_trial_of_the_final_counts_when_it_has_an_end() -> None:
    study = begin_study("final", sweep())
    for state, last, attributes in (
        (TrialState.COMPLETE, 1.0, {}),
        (TrialState.COMPLETE, 3.0, {"finalist": 0}),
        (TrialState.COMPLETE, 6.0, {"finalist": 0}),
        (TrialState.RUNNING, 90.0, {"finalist": 0}),
    ):
        study.add_trial(trial(state, returns={4: 2.0, 8: last}, **attributes))
    trials = study.get_trials()
    assert final_returns(trials, (4, 8)) == {0: 4.5}
    assert [ranked.number for ranked in ranking(trials, (4, 8))] == [0]


def test_returns_are_those_of_the_rungs() -> None:
    assert returns_by_rung(trial(returns={4: 1.0, 8: 2.0}), (2, 4, 8, 16)) == [1.0, 2.0]
    assert returns_by_rung(trial(), (4,)) == []


def test_a_trial_trains_the_preset_with_its_own_values() -> None:
    config = configuration(trial(), sweep())
    assert (config.learning_rate, config.gamma, config.n_step) == (2e-3, 0.95, 3)
    assert config.hidden_sizes == PRESETS["cartpole"].hidden_sizes
