"""Results of the trials of a study, and their ranking."""

from collections.abc import Sequence
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from dqn.config import DQNConfig
from flows.search.settings import SweepConfig

SHARD: Final = "shard"
FINALIST: Final = "finalist"
"""User attribute of a trial of the final: number of the trial that has the same values."""
DIVERGED: Final = "diverged"
"""User attribute of a diverged trial: the update and the reason. Such a trial is not ranked."""
_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


def ranking(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> list[FrozenTrial]:
    """Finished trials, best first: by the rung they reached, their return there, and the sum of their returns so far.

    Finalists precede all others and are ordered by the mean over their agents in the final. The trials of these agents
    and diverged trials are not ranked. A finalist with a diverged agent in the final is ranked as if it had not been a
    finalist.
    """

    def standing(trial: FrozenTrial) -> tuple[bool, int, float, float, int]:
        agents = final.get(trial.number, [])
        returns = _mean(agents) if agents else returns_by_rung(trial, rungs)
        return not agents, -len(returns), *order(returns), trial.number

    finished = [
        trial
        for trial in trials
        if trial.state in _FINISHED and DIVERGED not in trial.user_attrs and returns_by_rung(trial, rungs)
    ]
    final = _final(trials, rungs)
    return sorted((trial for trial in finished if FINALIST not in trial.user_attrs), key=standing)


def order(returns: Sequence[float]) -> tuple[float, float]:
    """Sort key of the returns at the rungs so far, best first; equal last returns are ordered by the sum of all."""
    return -returns[-1], -sum(returns)


def final_returns(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> dict[int, float]:
    """Mean return of each finalist's agents at the last rung, by the number of the finalist's trial."""
    return {number: _mean(agents)[-1] for number, agents in _final(trials, rungs).items()}


def returns_by_rung(trial: FrozenTrial, rungs: Sequence[int]) -> list[float]:
    """Mean returns at the rungs that a trial reached."""
    known = trial.intermediate_values
    return [known[updates] for updates in rungs if updates in known]


def configuration(trial: FrozenTrial, sweep: SweepConfig) -> DQNConfig:
    """The configuration of a trial."""
    return sweep.space.configuration(sweep.base, trial.params)


def _final(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> dict[int, list[list[float]]]:
    """Returns `[agents, rungs]` of each finalist without a diverged agent."""
    lost = {trial.user_attrs.get(FINALIST) for trial in trials if DIVERGED in trial.user_attrs}
    final: dict[int, list[list[float]]] = {}
    for trial in trials:
        if trial.user_attrs.get(FINALIST) not in {None, *lost} and trial.state in _FINISHED:
            final.setdefault(trial.user_attrs[FINALIST], []).append(returns_by_rung(trial, rungs))
    return final


def _mean(agents: Sequence[Sequence[float]]) -> list[float]:
    return [sum(returns) / len(agents) for returns in zip(*agents, strict=True)]
