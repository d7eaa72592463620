"""Two workers of a sweep compared with one: the same shards by one process, and by two processes on a core each.

    python -m benchmarks.workers [--trials 512] [--rounds 2]

The search is random, because its shards do not depend on each other. Wall time is compared, so nothing else may run.
"""

import argparse
import os
import secrets
import signal
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna

from benchmarks.contestants import warm_up
from benchmarks.harness import table, write
from benchmarks.sweep import cartpole_sweep
from flows.search.shard import run_shard
from flows.search.study import begin_study, read_study

_SHARD_TRIALS: Final = 32
"""So few that the last shard makes little difference."""


def main() -> None:
    """Measure both in turn, print the medians and write them to `results/sweep_workers.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2, help="of one, two, two and one")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["OPTUNA_STORAGE"] = f"sqlite:///{directory}/optuna.db"
        rows = workers(arguments.trials, arguments.rounds, Path(directory))
    print(table(rows))
    print(f"written to {write('sweep_workers', rows)}")


def workers(trials: int, rounds: int, directory: Path) -> list[dict[str, Any]]:
    """Wall seconds of the same shards by one process on a core and by two, in turn.

    All have imported everything before. A worker takes the next shard when it has finished one, as in a work pool.
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count in (1, 2, 2, 1):
            wall, cpu = _by_workers(count, trials, directory)
            seconds[count].append(wall)
            spent[count].append(cpu)
            print(f"{count}: {wall:.1f} s, {cpu:.1f} CPU-s", flush=True)
    alone = float(np.median(seconds[1]))
    return [
        {
            "workers": count,
            "runs": len(seconds[count]),
            "wall s": float(np.median(seconds[count])),
            "CPU-s": float(np.median(spent[count])),
            "times as fast": alone / float(np.median(seconds[count])),
        }
        for count in (1, 2)
    ]


def _by_workers(count: int, trials: int, directory: Path) -> tuple[float, float]:
    """Seconds until the last of the workers has nothing left to do, and the CPU-seconds of all."""
    sweep = cartpole_sweep("random", trials, shard_trials=_SHARD_TRIALS, seed=1)
    study = begin_study(secrets.token_hex(8), sweep).study_name
    processes = get_context("spawn")
    ready, go, done = (processes.Barrier(count + 1) for _ in range(3))
    shard, spent = processes.Value("i", 0), processes.Array("d", count)
    team = [
        processes.Process(target=_work, args=(worker, study, directory, (ready, go, done), shard, spent))
        for worker in range(count)
    ]
    for process in team:
        process.start()
    ready.wait()
    go.wait()
    began = time.perf_counter()
    done.wait()
    seconds = time.perf_counter() - began
    for process in team:
        process.join()
    return seconds, sum(spent[:])


def _work(
    worker: int,
    study_name: str,
    directory: Path,
    barriers: tuple[Barrier, Barrier, Barrier],
    shard: "Synchronized[int]",
    spent: "SynchronizedArray[float]",
) -> None:
    """Run shards on a core of its own until none is left. Writes their CPU-seconds to `spent`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal ends it without a message
    ready, go, done = barriers
    try:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[worker]})
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warm_up()
        study, sweep = read_study(study_name)
        ready.wait()
        go.wait()
        began = time.process_time()
        while True:
            with shard.get_lock():
                mine, shard.value = shard.value, shard.value + 1
            if mine >= sweep.shards:
                break
            run_shard(study, sweep, mine, directory=directory)
        spent[worker] = time.process_time() - began
        done.wait()
    except BaseException:
        for barrier in barriers:  # a process that waits there would wait for ever
            barrier.abort()
        raise


if __name__ == "__main__":
    main()
