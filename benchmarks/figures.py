"""Pictures of the measurements, written to `images/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.training.result import TrainingResult

IMAGES: Final = Path(__file__).parent.parent / "images"
_INK, _MINE, _OTHER, _BAND = "#222222", "#1f4e8c", "#8a6d3b", "#c9d8ec"


def costs(rows: Sequence[Mapping[str, Any]]) -> Path:
    """CPU-seconds per agent of each contestant, on a logarithmic axis, and how many of its agents solve the task."""
    figure, axes = _figure("What one agent costs on CartPole-v1, and how many solve it", height=0.8 + 0.55 * len(rows))
    for position, row in enumerate(reversed(rows)):
        colour = _MINE if row["contestant"].startswith("this project") else _OTHER
        axes.plot(
            [row["from"], row["to"]], [position] * 2, color=colour, linewidth=3, solid_capstyle="round", alpha=0.5
        )
        axes.plot(row["CPU-s an agent"], position, "o", color=colour)
        label = f"{row['CPU-s an agent']:.2g} s, {row['solved']} of {row['agents']} solved"
        axes.annotate(label, (row["to"], position), (10, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["contestant"] for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xscale("log")
    axes.set_xlim(min(row["from"] for row in rows) / 2, max(row["to"] for row in rows) * 30)
    axes.set_xlabel("CPU-seconds of training an agent (mean and range)")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    return _save(figure, "costs.png")


def ablation(rows: Sequence[Mapping[str, Any]]) -> Path:
    """Updates per agent of each variant, on a logarithmic axis: interquartile mean and its interval."""
    figure, axes = _figure("One change to the tuned training at a time, 16 seeds each", height=1.2 + 0.32 * len(rows))
    for position, row in enumerate(reversed(rows)):
        axes.plot([row["low"], row["high"]], [position] * 2, color=_MINE, linewidth=3, alpha=0.4)
        axes.plot(row["IQM updates"], position, "o", color=_MINE)
        label = f"{row['solved']} of {row['agents']} solved"
        axes.annotate(label, (1.02, position), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["variant"] for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xscale("log")
    axes.set_xlabel("gradient updates an agent spends: interquartile mean, 95% bootstrap interval")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    return _save(figure, "ablation.png")


def curves(results: Mapping[str, TrainingResult]) -> Path:
    """Greedy evaluations against gradient updates: interquartile mean of the agents and its interval."""
    figure, axes = _figure("Greedy return while training, 16 seeds each", height=3.6)
    for (name, result), colour, band in zip(results.items(), (_MINE, _OTHER), (_BAND, "#e8dcc8"), strict=True):
        agents = range(len(result.agents))
        series = [result.metrics.series("eval/mean_return", agent) for agent in agents]
        evaluations = min(len(values) for _, values in series) - 1  # the last one comes when the budget is spent
        returns = np.stack([values[:evaluations].numpy() for _, values in series])
        first = result.config.eval_start or result.config.eval_interval
        updates = first + result.config.eval_interval * np.arange(evaluations)
        low, high = np.array([bootstrap_interval(column, seed=0, resamples=500) for column in returns.T]).T
        axes.fill_between(updates, low, high, color=band, linewidth=0)
        axes.plot(updates, [interquartile_mean(column) for column in returns.T], color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("gradient updates of an agent")
    axes.set_ylabel("return of 20 episodes")
    axes.set_ylim(0, 510)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False, loc="lower right")
    return _save(figure, "article_and_tuned.png")


def population_sizes(updates: Sequence[Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]]) -> Path:
    """The cost of an agent in populations of different size: of one update, and of a whole training."""
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = (_style(axes) for axes in figure.subplots(1, 2))
    left.set_title("One update", loc="left", fontsize=12, color=_INK)
    left.set_ylabel("microseconds an agent")
    styles = {("32-32", 1): "o-", ("32-32", 2): "o:", ("128-64", 1): "s-", ("128-64", 2): "s:"}
    for (network, threads), style in styles.items():
        rows = [row for row in updates if (row["network"], row["threads"]) == (network, threads)]
        colour = _MINE if network == "32-32" else _OTHER
        label = f"{network}, {threads} thread{'s' * (threads > 1)}"
        _by_population(left, rows, "us an agent", style, colour, label)
    right.set_title("Training", loc="left", fontsize=12, color=_INK)
    right.set_ylabel("CPU-seconds an agent")
    for training, colour in zip(dict.fromkeys(row["training"] for row in trainings), (_MINE, _OTHER), strict=True):
        rows = [row for row in trainings if row["training"] == training]
        _by_population(right, rows, "CPU-s an agent", "o-", colour, training)
    for axes in (left, right):
        axes.set_xlabel("agents in the population")
        axes.legend(frameon=False, fontsize=9)
    return _save(figure, "population_sizes.png")


def held(
    lengths: npt.NDArray[np.float64],
    forces: npt.NDArray[np.float64],
    shares: Mapping[int, npt.NDArray[np.float64]],
    contestants: Sequence[str],
    least: float,
) -> Path:
    """Maps of returns over length and force, a row for each delay and a column for each contestant.

    `shares` are parts of 500 steps, `[contestants, lengths, forces]`, by the delay in steps.
    """
    figure = Figure(figsize=(9, 5.6), dpi=110, layout="constrained")
    grid = figure.subplots(len(shares), len(contestants), sharex=True, sharey=True)
    for row, (delay, maps) in zip(grid, shares.items(), strict=True):
        for axes, name, share in zip(row, contestants, maps, strict=True):
            image = axes.imshow(500 * share, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=500)
            late = f"{delay} steps late" if delay else "no delay"
            axes.set_title(
                f"{name}\n{late}: {np.mean(share >= least):.0%} balanced", loc="left", fontsize=10, color=_INK
            )
            home = np.abs(lengths - 0.5).argmin(), np.abs(forces - 10).argmin()
            axes.plot(home[1], home[0], "o", markerfacecolor="none", markeredgecolor="#c0392b", markersize=9)
            axes.axvline((len(forces) - 1) / 2, color="#ffffff", linewidth=2)
            axes.set_xticks(*_ticks(forces, (-40, -10, -2.5, 2.5, 10, 40)))
            axes.set_yticks(*_ticks(lengths, (0.0625, 0.25, 0.5, 1, 4)))
        row[0].set_ylabel("half length of the pole, m")
    for axes in grid[-1]:
        axes.set_xlabel("force of the motor, N")
    figure.colorbar(image, ax=grid, label="mean return of 500", shrink=0.8)
    return _save(figure, "held.png")


def _ticks(values: npt.NDArray[np.float64], labels: Sequence[float]) -> tuple[list[int], list[str]]:
    return [int(np.abs(values - label).argmin()) for label in labels], [f"{label:g}" for label in labels]


def _by_population(
    axes: Axes, rows: Sequence[Mapping[str, Any]], value: str, style: str, colour: str, label: str
) -> None:
    sizes = [row["population"] for row in rows]
    axes.loglog(sizes, [row[value] for row in rows], style, color=colour, label=label, markersize=4)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")


def _figure(title: str, *, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), dpi=110, layout="constrained")
    axes = _style(figure.subplots())
    axes.set_title(title, loc="left", fontsize=12, color=_INK)
    return figure, axes


def _style(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def _save(figure: Figure, name: str) -> Path:
    path = IMAGES / name
    figure.savefig(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
