"""Many seeds: the number that is solved, the cost of each, and the time of all on several cores.

    python -m benchmarks.seeds                                  # 256 seeds on one core
    python -m benchmarks.seeds --seeds 1024 --processes 2
    python -m benchmarks.seeds --seeds 16 --num-agents 1        # agents alone
    python -m benchmarks.seeds --last-network                   # a fixed budget, nothing is selected
    python -m benchmarks.seeds --preset frugal --num-agents 16  # few environment steps

Wall-clock time is that of training and judging, without the start of Python and PyTorch.
"""

import argparse
import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median

import numpy as np

from benchmarks.contestants import Outcome, this_project, warm_up, without_choosing
from benchmarks.harness import table, write


def main() -> None:
    """Train, judge, print one row and write it to `results/seeds_<number>[_last_network].json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=256)
    parser.add_argument("--num-agents", type=int, default=64, help="size of each population")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--last-network", action="store_true", help="judge the last network of a fixed budget")
    parser.add_argument("--preset", default="cartpole", choices=("cartpole", "frugal"))
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.seeds % arguments.num_agents:
        parser.error(f"--seeds must be a multiple of --num-agents, got {arguments.seeds} and {arguments.num_agents}")
    train = without_choosing if arguments.last_network else partial(this_project, preset=arguments.preset)
    populations = [partial(train, num_agents=arguments.num_agents)] * (arguments.seeds // arguments.num_agents)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context, initializer=_begin) as pool:
        list(pool.map(_ready, range(arguments.processes)))
        begin = time.perf_counter()
        timed = list(pool.map(_measure, populations))
        wall = time.perf_counter() - begin
    outcomes = [outcome for outcome, _ in timed]
    agents = sum(len(outcome.returns) for outcome in outcomes)
    solved = sum(outcome.solved for outcome in outcomes)
    steps = np.concatenate([outcome.steps for outcome in outcomes])
    row = {
        "contestant": outcomes[0].contestant,
        "seeds": agents,
        "population": arguments.num_agents,
        "processes": arguments.processes,
        "solved": solved,
        "median steps": int(np.median(steps)),
        "most steps": int(steps.max()),
        "evaluation steps a seed": sum(outcome.evaluation_steps for outcome in outcomes) / len(outcomes),
        "CPU-s a solved seed": sum(outcome.cpu_seconds for outcome in outcomes) / max(solved, 1),
        "median wall s of a population": median(seconds for _, seconds in timed),
        "wall s of all": wall,
    }
    print(table([row]))
    suffix = "" if arguments.preset == "cartpole" else f"_{arguments.preset}"
    name = f"seeds_{arguments.seeds}" + "_last_network" * arguments.last_network + suffix
    print(f"written to {write(name, [row])}")


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal ends the process, not only its task
    warm_up()


def _measure(train: Callable[[int], Outcome]) -> tuple[Outcome, float]:
    begin = time.perf_counter()
    outcome = train(secrets.randbits(31))
    print(f"{outcome.solved} of {len(outcome.returns)} solved, steps {sorted(outcome.steps.tolist())}", flush=True)
    return outcome, time.perf_counter() - begin


def _ready(_: int) -> None:
    """Returns when a worker has warmed up."""
    time.sleep(0.5)  # so that no worker takes two


if __name__ == "__main__":
    main()
