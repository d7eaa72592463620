"""The report of a sweep, for a terminal and for a page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from optuna import Study
from optuna.trial import FrozenTrial

from flows.reporting.figures import png
from flows.search.confirm import Confirmation
from flows.search.figures import over_rungs
from flows.search.record import searched
from flows.search.settings import FINAL_SEEDS, SweepConfig
from flows.search.trials import DIVERGED, FINALIST, final_returns, ranking, returns_by_rung

_ROWS: Final = 5


def text(study: Study, sweep: SweepConfig, confirmation: Confirmation, run_id: str) -> str:
    """The report for a terminal."""
    lines = [_headings(sweep), *_rows(study, sweep)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    confirmed = _confirmed(study, sweep, confirmation)
    return f"{table}\n\n{_totals(study, sweep)}\n{confirmed}\n\nstudy {study.study_name}, MLflow run {run_id}"


def markdown(study: Study, sweep: SweepConfig, confirmation: Confirmation, run_id: str) -> str:
    """The report of a sweep in Markdown, with its plot; `run_id` is the MLflow run of the sweep."""
    headings = _headings(sweep)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---:"] * len(headings), *_rows(study, sweep)))
    picture = base64.b64encode(png(over_rungs(study.get_trials(deepcopy=False), sweep))).decode()
    return (
        f"# Sweep of {sweep.base.env_id}\n\n{_totals(study, sweep)}\n\n"
        f"{_confirmed(study, sweep, confirmation)}\n\n{rows}\n\n"
        f"![returns over updates](data:image/png;base64,{picture})\n\n"
        f"Study `{study.study_name}`, MLflow run `{run_id}`.\n"
    )


def _confirmed(study: Study, sweep: SweepConfig, confirmation: Confirmation) -> str:
    """The winner's result, and whether the winner is the preset."""
    params = [trial.params for trial in study.get_trials(deepcopy=False) if trial.number == confirmation.trial]
    if params != [sweep.space.values(sweep.base)]:
        return confirmation.sentence
    return (
        f"The preset has won: trial {confirmation.trial} is {sweep.preset} as it is shipped, and no other trial is "
        f"better. {confirmation.sentence}"
    )


def _totals(study: Study, sweep: SweepConfig) -> str:
    trials = study.get_trials(deepcopy=False)
    tried = [trial for trial in trials if FINALIST not in trial.user_attrs]
    last = sum(len(returns_by_rung(trial, sweep.rungs)) == len(sweep.rungs) for trial in tried)
    finalists = len(final_returns(trials, sweep.rungs))
    final = f", {finalists} of these anew by {FINAL_SEEDS} agents each" if finalists else ""
    gone = [f"trial {trial.number} {trial.user_attrs[DIVERGED]}" for trial in trials if DIVERGED in trial.user_attrs]
    diverged = f" {len(gone)} diverged and are in no ranking: {'; '.join(gone[:_ROWS])}" if gone else ""
    if gone:
        diverged += f" and {len(gone) - _ROWS} more." if len(gone) > _ROWS else "."
    return (
        f"{len(tried):,} configurations by {sweep.method}, {last:,} of them trained to the last rung of "
        f"{sweep.rungs[-1]:,} updates{final}; {sweep.budget:,} gradient updates in all."
        f"{diverged}"
    )


def _headings(sweep: SweepConfig) -> list[str]:
    final = ["in the final"] if sweep.finalists else []
    return ["trial", "updates", "mean return", *final, *sweep.space.dimensions]


def _rows(study: Study, sweep: SweepConfig) -> Sequence[list[str]]:
    trials = study.get_trials(deepcopy=False)
    final = final_returns(trials, sweep.rungs)
    return [_row(trial, sweep, final) for trial in ranking(trials, sweep.rungs)[:_ROWS]]


def _row(trial: FrozenTrial, sweep: SweepConfig, final: Mapping[int, float]) -> list[str]:
    returns = returns_by_rung(trial, sweep.rungs)
    judged = [f"{final[trial.number]:.1f}" if trial.number in final else "-"] if sweep.finalists else []
    values = [_short(value) for value in searched(trial, sweep).values()]
    return [str(trial.number), f"{sweep.rungs[len(returns) - 1]:,}", f"{returns[-1]:.1f}", *judged, *values]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
