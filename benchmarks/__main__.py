"""`make bench`: this project, the article's loop and Stable-Baselines3, in turn, on one thread each.

`--quick` takes two minutes and trains one agent of each peer. A full run trains eight. Nothing is cached.
"""

import argparse
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.contestants import Outcome, article, rl_zoo, this_project, warm_up, without_choosing
from benchmarks.figures import costs
from benchmarks.harness import table, write
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean

Train = Callable[[int], Outcome]


def main() -> None:
    """Measure, print a table, write `results/learning.json` and the figure beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one population and one agent of each peer")
    parser.add_argument("--populations", type=int, default=4, help="populations of this project in a full run")
    parser.add_argument("--num-agents", type=int, default=64, help="agents in each of them")
    parser.add_argument("--peers", type=int, default=8, help="agents of each peer in a full run")
    arguments = parser.parse_args()
    populations, peers = (1, 1) if arguments.quick else (arguments.populations, arguments.peers)
    rounds: list[Train] = []
    for turn in range(max(populations, peers)):
        if turn < populations:
            rounds += [partial(train, num_agents=arguments.num_agents) for train in (this_project, without_choosing)]
        if turn < peers:
            rounds += [rl_zoo, article]
    warm_up()
    outcomes = []
    for train in rounds:
        outcomes.append(train(secrets.randbits(31)))
        print(_progress(outcomes[-1]), flush=True)
    rows = summary(outcomes)
    print(table(rows))
    print(f"written to {write('learning', rows)} and {costs(rows)}")


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row for each contestant, over all its agents, with 95% bootstrap intervals over agents."""
    rows = []
    for name in dict.fromkeys(outcome.contestant for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.contestant == name]
        agents = np.concatenate([outcome.returns for outcome in mine]).mean(1)
        cpu_seconds = sum(outcome.cpu_seconds for outcome in mine)
        solved = sum(outcome.solved for outcome in mine)
        low, high = bootstrap_interval(agents, seed=0)
        rows.append(
            {
                "contestant": name,
                "agents": len(agents),
                "solved": solved,
                "CPU-s an agent": cpu_seconds / len(agents),
                "CPU-s a solved agent": cpu_seconds / solved if solved else float("nan"),
                "from": min(outcome.cpu_seconds / len(outcome.returns) for outcome in mine),
                "to": max(outcome.cpu_seconds / len(outcome.returns) for outcome in mine),
                "IQM return": interquartile_mean(agents),
                "IQM low": low,
                "IQM high": high,
            }
        )
    return rows


def _progress(outcome: Outcome) -> str:
    agents = len(outcome.returns)
    return (
        f"{outcome.contestant}: {outcome.solved} of {agents} solved, {outcome.cpu_seconds / agents:.3g} CPU-s an agent"
    )


if __name__ == "__main__":
    main()
