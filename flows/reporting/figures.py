"""Figures of a training run: learning curves, final returns and stress tests."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.stress.robustness import CELLS, StressTest
from flows.training.curves import Curves, Floats

_INK, _AGENT, _SUMMARY, _BAND = "#222222", "#8fa8c8", "#1f4e8c", "#c9d8ec"


def learning_curves(curves: Curves) -> Figure:
    """Episodic return of every agent against its environment steps, and the population's interquartile mean.

    The upper figure has the returns while exploring; its mean is over the agents that are still training, as long as
    they are more than half of the population. The lower figure has the greedy evaluations; an agent that has left the
    population counts with the evaluation of its best network.
    """
    figure, (exploring, greedy) = _figure(f"Learning curves, {curves.env_id}", rows=2)
    _agents_and_summary(exploring, curves.exploring_steps, curves.exploring)
    _agents_and_summary(greedy, curves.greedy_steps, curves.greedy)
    greedy.plot(curves.solved_at, curves.greedy[:, -1], "o", color=_AGENT, markersize=4, clip_on=False)
    exploring.set_ylabel("return of an episode, exploring")
    greedy.set_ylabel("mean return of an evaluation, greedy")
    greedy.set_xlabel("environment steps of an agent")
    if not np.isnan(curves.solved_at).all():
        exploring.plot([], [], "o", color=_AGENT, markersize=4, label="solved, leaves the population")
    exploring.plot([], [], color=_AGENT, linewidth=0.8, label=f"one agent of {len(curves.exploring)}")
    exploring.legend(frameon=False, loc="best", fontsize=9)
    for axes in (exploring, greedy):
        axes.set_xlim(0, curves.exploring_steps[-1])
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def final_returns(returns: Floats, env_id: str) -> Figure:
    """Distribution of every agent's greedy returns `[A, episodes]` on unseen episodes; NaN for a diverged agent."""
    figure, (axes,) = _figure(f"Returns on unseen episodes, {env_id}")
    generator = np.random.default_rng(0)
    agents, episodes = returns.shape
    for agent, mine in enumerate(returns):
        spread = agent + generator.uniform(-0.28, 0.28, episodes)
        axes.scatter(spread, mine, s=7, color=_AGENT, alpha=0.5, linewidths=0)
        axes.hlines(mine.mean(), agent - 0.38, agent + 0.38, color=_SUMMARY, linewidth=2.2)
    axes.scatter([], [], s=12, color=_AGENT, label="one episode")
    axes.plot([], [], color=_SUMMARY, linewidth=2.2, label=f"mean of {episodes} episodes")
    axes.set_xlabel("agent")
    axes.set_ylabel("episodic return, greedy")
    axes.set_xticks(range(agents))
    low, high = np.nanmin(returns), np.nanmax(returns)
    low = min(low, high - 0.2 * abs(high))  # do not magnify tiny differences
    axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    axes.legend(frameon=False, ncols=2, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.3)
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=26, fontsize=12, color=_INK)
    return figure


def stress_cells(tests: dict[str, StressTest]) -> Figure:
    """Share of episodes without a fall in each cell of the stress test, one row for each of the versions."""
    shares = np.array([list(test.shares.values()) for test in tests.values()])
    figure, (axes,) = _figure("Episodes without a fall under stress")
    figure.set_size_inches(9, 1.9 + 0.75 * len(tests))
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=2.2, aspect="auto")  # darker blues would hide the numbers
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=_INK, fontsize=10)
    axes.set_xticks(range(len(CELLS)), [cell.name.replace(" ", "\n", 1) for cell in CELLS], fontsize=9)
    rows = [f"{name}\n{test.robustness:.1%}, push {test.push} N" for name, test in tests.items()]
    axes.set_yticks(range(len(tests)), rows, fontsize=9)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(title: str, *, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, 4.6 * rows), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])
    panels[0].set_title(title, loc="left", fontsize=12, color=_INK)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _agents_and_summary(axes: Axes, steps: Floats, curves: Floats) -> None:
    """Draw curves `[A, N]`, NaN where an agent has no value; where more than half have one, their mean and interval."""
    axes.plot(steps, curves.T, color=_AGENT, linewidth=0.8, alpha=0.8)
    enough = (~np.isnan(curves)).mean(0) > 0.5
    if len(curves) == 1 or not enough.any():
        return
    columns = [column[~np.isnan(column)] for column in curves.T[enough]]
    low, high = np.array([bootstrap_interval(column, seed=0, resamples=500) for column in columns]).T
    axes.fill_between(steps[enough], low, high, color=_BAND, alpha=0.7, linewidth=0, label="95% bootstrap interval")
    means = [interquartile_mean(column) for column in columns]
    axes.plot(steps[enough], means, color=_SUMMARY, linewidth=2.2, label="interquartile mean")
