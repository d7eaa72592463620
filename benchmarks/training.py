"""CPU-seconds a solved seed costs, against the size of the population.

    python -m benchmarks.training --populations 1 8 32

An agent counts as solved if the policy that would be registered holds the return's ceiling in every one of 100
episodes on seeds drawn from the operating system after training. Imports are not counted: they are paid once, by a
short run before the first measured one.
"""

import argparse
import dataclasses
import secrets
import time
from typing import Any

from benchmarks.harness import table, write
from dqn.config import PRESETS
from dqn.selection import greedy_returns
from dqn.training import train

EPISODES = 100


def measure(num_agents: int, seed: int, threads: int) -> dict[str, Any]:
    """Train one population and test each agent's best and final network on unseen seeds."""
    config = dataclasses.replace(PRESETS["cartpole"], num_agents=num_agents, seed=seed, num_threads=threads)
    assert config.acceptance_return is not None
    wall, cpu = time.perf_counter(), time.process_time()
    result = train(config)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    test_seed = secrets.randbits(31)
    best, final = (
        greedy_returns(networks, config.env_id, episodes=EPISODES, seed=test_seed)
        for networks in (result.best, result.final)
    )
    solved = int((best >= config.acceptance_return).all(1).sum())
    return {
        "population": num_agents,
        "seed": seed,
        "solved": solved,
        "solved by final network": int((final >= config.acceptance_return).all(1).sum()),
        "CPU-s": cpu,
        "CPU-s a solved seed": cpu / max(solved, 1),
        "wall s": wall,
        "mean updates": sum(agent.updates for agent in result.agents) / num_agents,
    }


def main() -> None:
    """Measure every population size in turn, as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, nargs="+", default=[32])
    parser.add_argument("--repeats", type=int, default=1, help="populations of each size, each with its own seed")
    parser.add_argument("--threads", type=int, default=PRESETS["cartpole"].num_threads)
    arguments = parser.parse_args()
    train(dataclasses.replace(PRESETS["cartpole"], num_agents=1, max_updates=2))
    rows = [
        measure(num_agents, seed, arguments.threads)
        for seed in (secrets.randbits(31) for _ in range(arguments.repeats))
        for num_agents in arguments.populations
    ]
    print(table(rows))
    print(f"written to {write('training', rows)}")


if __name__ == "__main__":
    main()
