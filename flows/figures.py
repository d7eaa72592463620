"""What a training run looks like: learning curves, final returns, and an episode as an animation."""

import io
import os
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dqn.evaluation import bootstrap_interval, interquartile_mean
from dqn.seeding import TEST, stream_seed
from dqn.training import TrainingResult
from serving.policy import OnnxPolicy

Floats = npt.NDArray[np.float64]

LEARNING_CURVES: Final = "learning_curves.png"
FINAL_RETURNS: Final = "final_returns.png"
EPISODE: Final = "episode.gif"

_BINS: Final = 60
_INK, _AGENT, _SUMMARY, _BAND = "#222222", "#8fa8c8", "#1f4e8c", "#c9d8ec"
_FRAME_INTERVAL: Final = 4
_FRAME_WIDTH: Final = 300
_COLOURS: Final = 32


def learning_curves(result: TrainingResult) -> Figure:
    """Episodic return of every agent against its environment steps, and the population's interquartile mean.

    An agent that has left the population, solved, counts with its last value from then on.
    """
    figure, axes = _figure("Learning curves", result.config.env_id)
    last = max(agent.environment_steps for agent in result.agents)
    edges = np.linspace(0, last, _BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    curves = np.stack([_binned(result, agent.agent, edges) for agent in result.agents])
    for agent, curve in zip(result.agents, curves, strict=True):
        inside = centres <= max(agent.environment_steps, centres[0])
        axes.plot(centres[inside], curve[inside], color=_AGENT, linewidth=0.8, alpha=0.8)
        if agent.solved:
            axes.plot(centres[inside][-1], curve[inside][-1], "o", color=_AGENT, markersize=4)
    known = ~np.isnan(curves).any(0)
    if len(curves) > 1 and known.any():
        columns = curves.T[known]
        low, high = np.array([bootstrap_interval(column, seed=0, resamples=500) for column in columns]).T
        axes.fill_between(
            centres[known], low, high, color=_BAND, alpha=0.7, linewidth=0, label="95% bootstrap interval"
        )
        means = [interquartile_mean(column) for column in columns]
        axes.plot(centres[known], means, color=_SUMMARY, linewidth=2.2, label="interquartile mean")
    axes.plot([], [], color=_AGENT, linewidth=0.8, label=f"one agent (of {len(curves)})")
    axes.plot([], [], "o", color=_AGENT, markersize=4, label="solved: left the population")
    axes.set_xlabel("environment steps of an agent")
    axes.set_ylabel("episodic return while exploring")
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def final_returns(returns: Floats, env_id: str) -> Figure:
    """Distribution of every agent's greedy returns `[A, episodes]` on unseen episodes."""
    figure, axes = _figure("Returns on unseen episodes", env_id)
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
    low, high = returns.min(), returns.max()
    margin = max(0.08 * (high - low), 0.1 * abs(high), 1.0)
    axes.set_ylim(low - margin, high + margin)
    axes.legend(frameon=False, ncols=2, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.3)
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=26, fontsize=12, color=_INK)
    return figure


def episode_gif(policy: OnnxPolicy) -> bytes | None:
    """The policy's first test episode as an animation; None where the environment draws no pictures."""
    env_id = policy.metadata.env_id
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
    env: gym.Env[Any, Any]
    try:
        env = gym.make(env_id, render_mode="rgb_array")
    except (gym.error.Error, ImportError):
        return None
    frames: list[Image.Image] = []
    observation, _ = env.reset(seed=stream_seed(policy.metadata.seed, TEST, 0))
    first_action = int(getattr(env.action_space, "start", 0))
    ended, step = False, 0
    while not ended:
        if step % _FRAME_INTERVAL == 0:
            frames.append(_frame(env.render()))
        action = int(policy.act(np.asarray(observation, dtype=np.float32)[None])[0]) + first_action
        observation, _, terminated, truncated, _ = env.step(action)
        ended, step = terminated or truncated, step + 1
    frames_per_second = env.metadata.get("render_fps", 30)
    env.close()
    buffer = io.BytesIO()
    milliseconds = 1000 * _FRAME_INTERVAL / frames_per_second
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(title: str, env_id: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{title}, {env_id}", loc="left", fontsize=12, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _binned(result: TrainingResult, agent: int, edges: Floats) -> Floats:
    """Mean return `[bins]` of the episodes that ended in each bin; a bin without one repeats the one before."""
    step, value = (column.numpy() for column in result.metrics.series("train/episodic_return", agent))
    index = np.clip(np.digitize(step, edges) - 1, 0, len(edges) - 2)
    count = np.bincount(index, minlength=len(edges) - 1)
    total = np.bincount(index, weights=value, minlength=len(edges) - 1)
    curve = np.full(len(edges) - 1, np.nan)
    np.divide(total, count, out=curve, where=count > 0)
    for position in range(1, len(curve)):
        if np.isnan(curve[position]):
            curve[position] = curve[position - 1]
    return curve


def _frame(pixels: Any) -> Image.Image:
    image = Image.fromarray(np.asarray(pixels))
    height = round(image.height * _FRAME_WIDTH / image.width)
    return image.resize((_FRAME_WIDTH, height)).quantize(_COLOURS, dither=Image.Dither.NONE)
