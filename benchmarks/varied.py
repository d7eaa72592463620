"""The cost of different hyper-parameters within a population: measured in pairs, side by side.

    python -m benchmarks.varied [--num-agents 64] [--pairs 40]

A step is one step of the vector environment and one gradient update, with the preset `cartpole`. CPU time of this
process is measured.
"""

import argparse
import dataclasses
import time
from typing import Final

import numpy as np

from benchmarks.harness import table, write
from dqn.hyperparameters import HyperParameters
from dqn.presets import PRESETS
from dqn.training.machine import torch_threads
from dqn.training.state import TrainingState
from dqn.training.steps import collect, learn

STEPS: Final = 25


def main() -> None:
    """Measure, print a row and write it to `results/varied.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-agents", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    config = dataclasses.replace(PRESETS["cartpole"], num_agents=arguments.num_agents)
    rates = np.geomspace(1e-3, 1e-2, arguments.num_agents)
    varied = HyperParameters.of(
        [
            dataclasses.replace(
                config,
                learning_rate=float(rate),
                gamma=1 - float(rate),
                tau=float(rate) * 10,
                adam_eps=float(rate) / 10,
                adam_betas=(0.9, 1 - float(rate)),
                epsilon_end=float(rate) * 10,
                average_rate=float(rate),
            )
            for rate in rates
        ]
    )
    uniform, differing = TrainingState.begin(config), TrainingState.begin(config, varied)
    with torch_threads(1):
        measured = np.array([(steps(uniform), steps(differing)) for _ in range(arguments.pairs)])[2:]
    low, ratio, high = np.quantile(measured[:, 1] / measured[:, 0], (0.25, 0.5, 0.75))
    milliseconds = np.median(measured, axis=0) / STEPS * 1e3
    row = {
        "agents": arguments.num_agents,
        "uniform ms": float(milliseconds[0]),
        "varied ms": float(milliseconds[1]),
        "ratio": float(ratio),
        "quartiles": f"{low:.3f} to {high:.3f}",
    }
    print(table([row]))
    print(f"written to {write('varied', [row])}")


def steps(state: TrainingState) -> float:
    """CPU-seconds of `STEPS` steps, after the replay buffer has enough transitions."""
    config = state.config
    while not state.replay.can_sample(config.batch_size, config.min_replay_batches):
        collect(state)
    before = time.process_time()
    for _ in range(STEPS):
        collect(state)
        learn(state)
    return time.process_time() - before


if __name__ == "__main__":
    main()
