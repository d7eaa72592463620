"""Stress tests of populations of the presets `cartpole` and `robust`, and of linear policies for comparison.

    python -m benchmarks.robustness                 # 16 agents of each, 100 episodes of each cell

A line has the percentage of completed episodes in one changed world (a cell): the mean over agents, the least of the
agents, and that of the exported agent, which was chosen on other seeds. The last lines are the greatest single push
that the exported agent survives, in newtons, and the CPU time of training and choosing.
"""

import argparse
import dataclasses
import secrets
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.contestants import warm_up
from benchmarks.harness import table, write
from dqn.environments.world import NOMINAL
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import Act
from dqn.networks.population import greedy_action
from dqn.presets import PRESETS, PresetName
from dqn.stress.baselines import stressed_baselines
from dqn.stress.finalists import stressed
from dqn.stress.robustness import CELLS, ENVIRONMENT, stress_test
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult

COMPARED: Final[tuple[PresetName, ...]] = ("cartpole", "robust")


def main() -> None:
    """Train, stress, print the table and write it to `results/robustness.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-agents", type=int, default=16, help="agents of each preset")
    parser.add_argument("--episodes", type=int, default=100, help="of each cell and agent")
    arguments = parser.parse_args()
    warm_up()
    columns: dict[str, list[float]] = {}
    for preset in COMPARED:
        columns |= measured(preset, num_agents=arguments.num_agents, episodes=arguments.episodes)
    for name, tested in stressed_baselines(NOMINAL, episodes=arguments.episodes).items():
        columns[name] = [100 * share for share in tested.shares.values()] + [float(tested.push), float("nan")]
    lines = [*(cell.name for cell in CELLS), "single push", "CPU-s an agent"]
    rows: list[dict[str, Any]] = [
        {"cell": line, **{name: values[k] for name, values in columns.items()}} for k, line in enumerate(lines)
    ]
    print(table(rows))
    print(f"written to {write('robustness', rows)}")


def measured(preset: PresetName, *, num_agents: int, episodes: int) -> dict[str, list[float]]:
    """The columns of a preset: mean, least and exported agent, with a value for each line."""
    begin = time.process_time()
    config = dataclasses.replace(PRESETS[preset], num_agents=num_agents, seed=secrets.randbits(31))
    result = stressed(train(config))
    cost = (time.process_time() - begin) / num_agents
    seed = secrets.randbits(28)
    with torch.no_grad(), torch_threads(1):
        held = shares(result, episodes=episodes, seed=seed)
        push = stress_test(act_of(result), NOMINAL, episodes=100, seed=seed).push
    print(
        f"{preset}: {result.solved_fraction:.0%} accepted, robustness by agent {np.sort(held.mean(0)).round(3)}",
        flush=True,
    )
    return {
        preset: [*100 * held.mean(1), float("nan"), cost],
        f"{preset}, least": [*100 * held.min(1), float("nan"), float("nan")],
        f"{preset}, exported": [*100 * held[:, result.best_agent], float(push), float("nan")],
    }


def shares(result: TrainingResult, *, episodes: int, seed: int) -> npt.NDArray[np.float64]:
    """Share of episodes that the best network of each agent completes, `[cells, A]`."""
    cells = [
        greedy_returns(
            result.best,
            ENVIRONMENT,
            NOMINAL.altered(cell.change),
            episodes=episodes,
            seed=seed,
            max_episode_steps=cell.steps,
        )
        >= cell.steps
        for cell in CELLS
    ]
    return np.asarray(torch.stack(cells).double().mean(2).numpy())


def act_of(result: TrainingResult) -> Act:
    """The exported agent's greedy policy."""
    network = result.best.select(torch.tensor([result.best_agent]))

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
        return greedy_action(network(torch.from_numpy(observation)[None]))[0].numpy()

    return act


if __name__ == "__main__":
    main()
