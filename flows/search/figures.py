"""Figures of a study: returns over updates with the rungs, and those of Optuna."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import optuna.visualization.matplotlib as drawn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial

from flows.search.settings import SweepConfig
from flows.search.trials import ranking, returns_by_rung

RUNGS: Final = "rungs.png"
_INK, _TRIAL, _LAST, _BEST = "#222222", "#b9c6d8", "#5c7fae", "#c2571a"
_MOST_LINES: Final = 400
_WIDTHS: Final = {"plot_parallel_coordinate": 18.0}

Draw = Callable[[], bytes]


def figures(study: Study, sweep: SweepConfig) -> dict[str, Draw]:
    """The figures of a study by file name, each drawn when its function is called."""
    trials = study.get_trials(deepcopy=False)
    return {
        RUNGS: lambda: _png(over_rungs(trials, sweep)),
        "history.png": lambda: _optuna(drawn.plot_optimization_history, study),
        "importances.png": lambda: _optuna(drawn.plot_param_importances, study),
        "parallel_coordinates.png": lambda: _optuna(drawn.plot_parallel_coordinate, study),
        "slice.png": lambda: _optuna(drawn.plot_slice, study),
    }


def over_rungs(trials: Sequence[FrozenTrial], sweep: SweepConfig) -> Figure:
    """Mean greedy return of every trial at the rungs it reached, and how many trials reached each rung."""
    figure = Figure(figsize=(10.5, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    ranked = ranking(trials, sweep.rungs)
    every = max(1, len(ranked) // _MOST_LINES)
    for trial in [*ranked[1::every][::-1], *ranked[:1]]:
        returns = returns_by_rung(trial, sweep.rungs)
        best, complete = trial is ranked[0], len(returns) == len(sweep.rungs)
        colour = _BEST if best else _LAST if complete else _TRIAL
        style: dict[str, Any] = {"linewidth": 2.4 if best else 0.9, "alpha": 1.0 if best else 0.6, "markersize": 3}
        axes.plot(
            sweep.rungs[: len(returns)], returns, "o-", color=colour, clip_on=False, zorder=3 if best else 2, **style
        )
    for rung, updates in enumerate(sweep.rungs):
        reached = sum(len(returns_by_rung(trial, sweep.rungs)) > rung for trial in ranked)
        axes.axvline(updates, color="#dddddd", linewidth=1, zorder=1)
        axes.annotate(
            f"{reached:,} trials", (updates, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9
        )
    axes.plot([], [], color=_BEST, linewidth=2.4, label=f"the winner, trial {ranked[0].number}")
    axes.plot([], [], color=_LAST, label="others that reached the last rung")
    axes.plot([], [], color=_TRIAL, label="left before")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axes.set_xscale("log")
    axes.set_xticks(sweep.rungs, [f"{updates:,}" for updates in sweep.rungs])
    axes.minorticks_off()
    axes.set_xlabel("gradient updates of a trial")
    axes.set_ylabel(f"mean greedy return, {sweep.base.env_id}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{len(ranked):,} configurations, compared at {len(sweep.rungs)} rungs", loc="left", pad=22, color=_INK
    )
    return figure


def _optuna(draw: Callable[[Study], Any], study: Study) -> bytes:
    """One of Optuna's figures, which are drawn on pyplot's current figure, as PNG."""
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)  # about layouts that do not fit every axis
            axes = draw(study)
        first: Axes = np.ravel(np.asarray(axes, dtype=object))[0]
        figure = first.figure
        assert isinstance(figure, Figure)
        figure.set_size_inches(max(_WIDTHS.get(draw.__name__, 9.0), figure.get_figwidth()), 4.8)
        return _png(figure)
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()
