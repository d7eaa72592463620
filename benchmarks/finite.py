"""The cost of the check in every step and update that its numbers are finite: with and without it, side by side.

    python -m benchmarks.finite [--num-agents 16 64] [--pairs 1500]

A step is one step of the vector environment and its gradient updates, with the preset `cartpole`. CPU time of this
process is measured on one thread, from the same state, in turn.
"""

import argparse
import dataclasses
import time
from typing import Any, Final

import numpy as np
from torch import Tensor

from benchmarks.harness import table, write
from dqn.experience import vector
from dqn.finite import all_finite
from dqn.learning import learner
from dqn.presets import PRESETS
from dqn.training import loop
from dqn.training.machine import torch_threads
from dqn.training.state import TrainingState
from dqn.training.steps import advance, collect, learn

STEPS: Final = 1
SPENT: Final[list[float]] = []
"""CPU-seconds of each check."""


def main() -> None:
    """Measure, print a row for each size and write them to `results/finite.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-agents", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--pairs", type=int, default=1_500)
    arguments = parser.parse_args()
    with torch_threads(1):
        rows = [row(num_agents, arguments.pairs) for num_agents in arguments.num_agents]
    print(table(rows))
    print(f"written to {write('finite', rows)}")


def row(num_agents: int, pairs: int) -> dict[str, Any]:
    """The cost in a population of one size."""
    state = TrainingState.begin(dataclasses.replace(PRESETS["cartpole"], num_agents=num_agents))
    advance(state, 20)
    pair: list[tuple[float, float]] = []
    for turn in range(pairs):
        first = steps(state, looking=bool(turn % 2))
        second = steps(state, looking=not turn % 2)
        pair.append((second, first) if turn % 2 else (first, second))
    measured, spent = np.array(pair), sum(SPENT)
    SPENT.clear()
    ratio = np.median(measured[:, 1] / measured[:, 0])
    (calm, calm_looking), (without, looking) = np.quantile(measured, (0.1, 0.5), axis=0) / STEPS * 1e3
    return {
        "agents": num_agents,
        "without ms": float(without),
        "looking ms": float(looking),
        "spent looking": f"{spent / measured[:, 1].sum():.2%}",
        "median of ratios": f"{ratio:.4f}",
        "of medians": f"{looking / without:.4f}",
        "of the calmest tenths": f"{calm_looking / calm:.4f}",
    }


def steps(state: TrainingState, *, looking: bool) -> float:
    """CPU-seconds of some steps of training."""
    for module in (loop, vector, learner):
        vars(module)["all_finite"] = timed if looking else lambda _: True
    began = time.process_time()
    for _ in range(STEPS):
        collect(state)
        for _ in range(state.config.updates_per_step):
            learn(state)
    return time.process_time() - began


def timed(tensor: Tensor) -> bool:
    """Check a tensor, and record the CPU-seconds of the check."""
    began = time.process_time()
    answer = all_finite(tensor)
    SPENT.append(time.process_time() - began)
    return answer


if __name__ == "__main__":
    main()
