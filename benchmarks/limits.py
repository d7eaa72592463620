"""The share of the machine's matmul rate that updates reach, and their cost by population size and threads.

python -m benchmarks.limits
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise
from typing import Any

import torch

from benchmarks.contestants import FIXED_BUDGET, cpu_time, warm_up
from benchmarks.figures import population_sizes
from benchmarks.harness import table, write
from dqn.config import DQNConfig
from dqn.experience.buffer import replay_bytes
from dqn.experience.transitions import Batch
from dqn.learning.learner import Learner
from dqn.networks.making import body_of
from dqn.networks.population import QNetworks
from dqn.presets import PRESETS
from dqn.training import loop
from dqn.training.loop import train
from dqn.training.machine import torch_threads

OBSERVATION, ACTIONS = 4, 2
TRAININGS = {"until accepted": PRESETS["cartpole"], "fixed budget": FIXED_BUDGET}
CEILING_SIZE = 1_024
REPEATS = 5
BATCHES = 32
SLICE = 0.1
"""Seconds of each measurement in a row: long enough that what the other one left in the caches does not matter."""


def main() -> None:
    """Print the tables, write them to `results/limits.json` and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    arguments = parser.parse_args()
    warm_up()
    updates = [
        share_of_ceiling(num_agents, hidden_sizes, threads)
        for threads in (1, 2)
        for hidden_sizes in ((32, 32), (128, 64))
        for num_agents in arguments.populations
    ]
    print(table(updates))
    parts = [shares_of_training(name, num_agents) for name in TRAININGS for num_agents in arguments.populations]
    print(table(parts))
    print(f"written to {write('limits', [*updates, *parts])} and {population_sizes(updates, parts)}")


def share_of_ceiling(num_agents: int, hidden_sizes: tuple[int, ...], threads: int) -> dict[str, Any]:
    """Time of one update, and its floating-point operations a second compared with those of a large matmul."""
    config = dataclasses.replace(PRESETS["cartpole"], num_agents=num_agents, hidden_sizes=hidden_sizes)
    learner = Learner(config, _networks(config))
    # With a single batch, the error would vanish, and Adam's moments would become denormal numbers, which are slow.
    batches = cycle([_batch(config) for _ in range(BATCHES)])
    left, right = torch.randn(2, CEILING_SIZE, CEILING_SIZE)
    with torch_threads(threads):
        update, ceiling = _fastest(lambda: learner.update(next(batches)), lambda: torch.mm(left, right))
    rate = update_flops(config) / update
    return {
        "threads": threads,
        "network": "-".join(map(str, hidden_sizes)),
        "population": num_agents,
        "update ms": 1e3 * update,
        "us an agent": 1e6 * update / num_agents,
        "GFLOP/s": rate / 1e9,
        "ceiling GFLOP/s": 2 * CEILING_SIZE**3 / ceiling / 1e9,
        "share": rate / (2 * CEILING_SIZE**3 / ceiling),
        "MB an agent": (
            replay_bytes(num_agents=1, capacity=config.replay_capacity, obs=OBSERVATION)
            + 5 * 4 * sum(parameter[0].numel() for parameter in learner.online.parameters())  # 3 networks, 2 moments
        )
        / 1e6,
    }


def update_flops(config: DQNConfig) -> int:
    """Floating-point operations of the matrix products of one update, two for a multiplication and an addition.

    Each layer has a product in the forward pass of the target network, one in that of the online network, and one in
    the backward pass for its weights. All layers but the first have one more for the gradient of their input.
    Activations, the optimizer and the move of the target networks are not counted.
    """
    sizes = (OBSERVATION, *config.hidden_sizes, ACTIONS)
    products = [3 * a * b for a, b in pairwise(sizes)] + [a * b for a, b in list(pairwise(sizes))[1:]]
    return 2 * sum(products) * config.batch_size * config.num_agents


def shares_of_training(name: str, num_agents: int) -> dict[str, Any]:
    """The shares of a training's CPU time."""
    spent = {"collect": 0.0, "learn": 0.0, "evaluate": 0.0}
    config = dataclasses.replace(TRAININGS[name], num_agents=num_agents)
    with _timed(spent):
        total = cpu_time(lambda: train(config))
    return {
        "training": name,
        "population": num_agents,
        "CPU-s an agent": total / num_agents,
        **{name: seconds / total for name, seconds in spent.items()},
    }


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Account for the CPU time of the training loop's parts while the block runs."""
    originals = {name: getattr(loop, name) for name in spent}

    def timed(name: str) -> Callable[..., None]:
        def part(*arguments: Any) -> None:
            spent[name] += cpu_time(lambda: originals[name](*arguments))

        return part

    for name in spent:
        setattr(loop, name, timed(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(loop, name, original)


def _fastest(*works: Callable[[], Any]) -> list[float]:
    """Seconds per call of each: the least of several rounds, taken in turn."""
    counts = []
    for work in works:
        begin = time.perf_counter()
        work()
        counts.append(max(3, int(SLICE / (time.perf_counter() - begin))))
    least = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for i, (work, count) in enumerate(zip(works, counts, strict=True)):
            begin = time.perf_counter()
            for _ in range(count):
                work()
            least[i] = min(least[i], (time.perf_counter() - begin) / count)
    return least


def _networks(config: DQNConfig) -> QNetworks:
    return QNetworks.initialised(
        seeds=range(config.num_agents),
        body=body_of(config, (OBSERVATION,)),
        num_actions=ACTIONS,
    )


def _batch(config: DQNConfig) -> Batch:
    shape = config.num_agents, config.batch_size
    return Batch(
        observation=torch.randn(*shape, OBSERVATION),
        action=torch.randint(ACTIONS, shape),
        reward=torch.rand(shape),
        next_observation=torch.randn(*shape, OBSERVATION),
        discount=torch.rand(shape),
    )


if __name__ == "__main__":
    main()
