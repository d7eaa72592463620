"""The table of Packer et al. (2018), "Assessing Generalization in Deep Reinforcement Learning".

    python -m benchmarks.generalization                                         # CartPole, 16 seeds
    python -m benchmarks.generalization --environment acrobot --seeds 4

There are three kinds of worlds. D is Gymnasium's own. In R the parameters are drawn from ranges for each episode, and
in E from wider ranges without those of R. An agent is trained in D or in R, with the preset and its time limit, and
plays 1,000 episodes in each kind. Default is DD (trained in D, played in D), Interpolation is RR, and Extrapolation is
the geometric mean of DR, DE and RE. All three are percentages of successful episodes. Our policies are greedy; the
published ones sample their actions. On CartPole the table also has linear policies that were searched for in the same
worlds, with the table's time limit.
"""

import argparse
import dataclasses
import itertools
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.contestants import warm_up
from benchmarks.harness import table, write
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import episodic_returns
from dqn.presets import PRESETS
from dqn.stress.baselines import linear_policy, search_linear
from dqn.training.loop import train
from dqn.training.machine import torch_threads

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Interval = tuple[float, float]
Preset = Literal["cartpole", "acrobot", "mountaincar"]
Play = Callable[[World, int], Floats]
"""Returns `[A, episodes]` of trained policies in a world, for a number of episodes."""

EPISODES: Final = 1_000
_RESAMPLES: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class Task:
    """The worlds of an environment, the definition of success, and the published results."""

    inner: dict[str, Interval]
    """Ranges of R, by the names of the fields of World."""
    outer: dict[str, Interval]
    """Ranges of E; the inner ones are excluded."""
    max_episode_steps: int
    """Enough to tell success from failure."""
    least_return: float
    """Least return of a successful episode."""
    published: dict[str, tuple[float, float, float]]
    """Default, Interpolation and Extrapolation of the paper's best agent."""


TASKS: Final[dict[Preset, Task]] = {
    "cartpole": Task(
        inner={"force_mag": (5.0, 15.0), "length": (0.25, 0.75), "masspole": (0.05, 0.5)},
        outer={"force_mag": (1.0, 20.0), "length": (0.05, 1.0), "masspole": (0.01, 1.0)},
        max_episode_steps=200,
        least_return=195.0,
        published={"A2C": (100.0, 100.0, 93.63)},
    ),
    "acrobot": Task(  # 0 for the step that reaches the goal and -1 for the others: 80 steps return -79
        inner=dict.fromkeys(("length", "masspole", "inertia"), (0.75, 1.25)),
        outer=dict.fromkeys(("length", "masspole", "inertia"), (0.5, 1.5)),
        max_episode_steps=81,
        least_return=-79.0,
        published={"A2C": (88.52, 72.88, 66.56)},
    ),
    "mountaincar": Task(  # the paper's mass is what Gymnasium calls gravity
        inner={"force_mag": (0.0005, 0.005), "gravity": (0.001, 0.005)},
        outer={"force_mag": (0.0001, 0.01), "gravity": (0.0005, 0.01)},
        max_episode_steps=111,
        least_return=-110.0,
        published={"PPO": (99.96, 84.12, 90.21)},
    ),
}


def main() -> None:
    """Train, play, print the table and write it to `results/generalization_<environment>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", choices=list(TASKS), default="cartpole")
    parser.add_argument("--seeds", type=int, default=16, help="agents trained in D, and as many in R")
    arguments = parser.parse_args()
    warm_up()
    task: Task = TASKS[arguments.environment]
    worlds, seeds = (NOMINAL, World.from_dict(task.inner)), arguments.seeds
    rows = [row("this project", task, *(agents(arguments.environment, world, seeds) for world in worlds))]
    print(table(rows), flush=True)
    if arguments.environment == "cartpole":
        rows.append(row("linear, searched", task, *(searched(task, world, seeds) for world in worlds)))
    for name, (default, interpolation, extrapolation) in task.published.items():
        unknown = dict.fromkeys(rows[0], "")
        measures = {"Default": default, "Interpolation": interpolation, "Extrapolation": extrapolation}
        rows.append(unknown | {"who": f"{name}, published"} | measures)
    print(table(rows))
    print(f"written to {write(f'generalization_{arguments.environment}', rows)}")


def agents(preset: Preset, world: World, seeds: int) -> Play:
    """Train a population in a world. Returns its play, with the network of each agent that would be registered."""
    result = train(dataclasses.replace(PRESETS[preset], num_agents=seeds, world=world, seed=secrets.randbits(31)))
    task, env_id = TASKS[preset], result.config.env_id

    def play(world: World, episodes: int) -> Floats:
        with torch_threads(1), torch.no_grad():
            returns = greedy_returns(
                result.best,
                env_id,
                world,
                episodes=episodes,
                seed=secrets.randbits(28),
                max_episode_steps=task.max_episode_steps,
            )
        return np.asarray(returns.numpy())

    return play


def searched(task: Task, world: World, seeds: int) -> Play:
    """Search for one linear policy on CartPole per seed, in a world. Returns their play."""
    limit = task.max_episode_steps
    weights = [search_linear(world, seed=secrets.randbits(28), max_episode_steps=limit) for _ in range(seeds)]

    def play(world: World, episodes: int) -> Floats:
        returns = episodic_returns(
            linear_policy(np.repeat(weights, episodes, axis=0)),
            "CartPole-v1",
            world,
            num_episodes=seeds * episodes,
            seed=secrets.randbits(28),
            max_episode_steps=limit,
        )
        return returns.reshape(seeds, episodes)

    return play


def row(name: str, task: Task, trained_in_d: Play, trained_in_r: Play) -> dict[str, Any]:
    """One line of the table: percentages by condition, and the summaries with 95% bootstrap intervals over seeds."""
    worlds = {"D": [(1.0, NOMINAL)], "R": [(1.0, World.from_dict(task.inner))], "E": outside(task.inner, task.outer)}
    rates = {
        f"{trained}{played}": success_rates(play, boxes, task.least_return)
        for trained, play in (("D", trained_in_d), ("R", trained_in_r))
        for played, boxes in worlds.items()
    }
    means = {condition: 100.0 * float(rate.mean()) for condition, rate in rates.items()}
    return {"who": name, "seeds": len(rates["DD"]), **means, **summaries(rates, seed=0)}


def outside(inner: dict[str, Interval], outer: dict[str, Interval]) -> list[tuple[float, World]]:
    """Worlds with every parameter outside of its inner range, and the share of episodes that each gets.

    Each parameter has two intervals, below and above the inner one. A uniform draw falls into the longer one more
    often, so that a share is a product of lengths.
    """
    sides = [[(name, (outer[name][0], inner[name][0])), (name, (inner[name][1], outer[name][1]))] for name in inner]
    boxes = [dict(box) for box in itertools.product(*sides)]
    sizes = [math.prod(high - low for low, high in box.values()) for box in boxes]
    return [(size / sum(sizes), World.from_dict(box)) for size, box in zip(sizes, boxes, strict=True)]


def success_rates(play: Play, boxes: list[tuple[float, World]], least_return: float) -> Floats:
    """Share `[A]` of successful episodes. `EPISODES` are divided among the worlds by their shares."""
    bounds = np.rint(EPISODES * np.cumsum([0.0] + [share for share, _ in boxes])).astype(int)
    counts = np.diff(bounds)
    succeeded = [
        play(world, int(count)) >= least_return for count, (_, world) in zip(counts, boxes, strict=True) if count
    ]
    return np.asarray(np.concatenate(succeeded, axis=1).mean(1))


def summaries(rates: dict[str, Floats], *, seed: int) -> dict[str, float]:
    """Default, Interpolation and Extrapolation in percent, from means over agents of rates `[A]`.

    The bounds are those of the 95% percentile bootstrap: agents trained in D and agents trained in R are resampled.
    """
    generator = np.random.default_rng(seed)
    everyone = np.arange(len(rates["DD"]))
    samples = [_summary(rates, *generator.integers(len(everyone), size=(2, len(everyone)))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    names = ("Default", "Interpolation", "Extrapolation")
    values = zip(names, _summary(rates, everyone, everyone), low, high, strict=True)
    return {
        key: 100.0 * float(value)
        for name, mean, least, most in values
        for key, value in ((name, mean), (f"{name} low", least), (f"{name} high", most))
    }


def _summary(rates: dict[str, Floats], d: Integers, r: Integers) -> tuple[float, float, float]:
    """The three summaries, as fractions, of the agents `d` trained in D and the agents `r` trained in R."""
    extrapolated = rates["DR"][d].mean() * rates["DE"][d].mean() * rates["RE"][r].mean()
    return float(rates["DD"][d].mean()), float(rates["RR"][r].mean()), float(np.cbrt(extrapolated))


if __name__ == "__main__":
    main()
