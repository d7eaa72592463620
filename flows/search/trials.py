"""What the trials of a study came to, and which of them are better."""

from collections.abc import Sequence
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from dqn.config import DQNConfig
from flows.search.settings import SweepConfig

SHARD: Final = "shard"
FINALIST: Final = "finalist"
"""Of a trial of the final: the number of the trial whose values it trains again."""
DIVERGED: Final = "diverged"
"""Of a trial that diverged: after which update, and why. It is in no ranking."""
_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


def ranking(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> list[FrozenTrial]:
    """Finished trials, best first: by the rung they reached, what they returned there, and at all rungs on the way.

    Finalists come before all others, by the mean of their agents in the final, who have no place of their own. A trial
    that diverged is not among them; a finalist of which an agent diverged in the final counts as if it had not been in
    it.
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
    """Of what a trial returned at the rungs so far: less is better. At the ceiling who was there soonest is."""
    return -returns[-1], -sum(returns)


def final_returns(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> dict[int, float]:
    """What finalists returned in the end, the mean of their agents, by the number of their trial."""
    return {number: _mean(agents)[-1] for number, agents in _final(trials, rungs).items()}


def returns_by_rung(trial: FrozenTrial, rungs: Sequence[int]) -> list[float]:
    """Mean returns at the rungs a trial reached."""
    known = trial.intermediate_values
    return [known[updates] for updates in rungs if updates in known]


def configuration(trial: FrozenTrial, sweep: SweepConfig) -> DQNConfig:
    """What a trial trains."""
    return sweep.space.configuration(sweep.base, trial.params)


def _final(trials: Sequence[FrozenTrial], rungs: Sequence[int]) -> dict[int, list[list[float]]]:
    """Returns `[agents, rungs]` of finalists, of those of which no agent diverged."""
    lost = {trial.user_attrs.get(FINALIST) for trial in trials if DIVERGED in trial.user_attrs}
    final: dict[int, list[list[float]]] = {}
    for trial in trials:
        if trial.user_attrs.get(FINALIST) not in {None, *lost} and trial.state in _FINISHED:
            final.setdefault(trial.user_attrs[FINALIST], []).append(returns_by_rung(trial, rungs))
    return final


def _mean(agents: Sequence[Sequence[float]]) -> list[float]:
    return [sum(returns) / len(agents) for returns in zip(*agents, strict=True)]
