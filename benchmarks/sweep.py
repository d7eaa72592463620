"""Sweeps: what a configuration costs, two workers against one, and whether search and winner are worth it.

    python -m benchmarks.sweep cost                       # 1,024 configurations beside one Stable-Baselines3 training
    python -m benchmarks.sweep peer                       # Optuna with Stable-Baselines3 for five minutes
    python -m benchmarks.sweep worth --studies 8 --trials 64
    python -m benchmarks.sweep workers --trials 512       # one process on a core, then two on a core each

`worth` holds the search against random search, and its winner against the preset: both are trained anew on 16 fresh
seeds, and judged by the updates that their agents spend until they are accepted, looked at every 25 updates from the
50th on; who is never accepted counts with the whole budget. Costs are CPU-seconds of this process on one thread,
Optuna's storage (SQLite) included, imports not.
"""

import argparse
import dataclasses
import os
import secrets
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import torch

from benchmarks.contestants import CEILING, ENV_ID, EPISODES, rl_zoo, warm_up
from benchmarks.harness import table, write
from benchmarks.peers import RL_ZOO
from dqn.config import DQNConfig
from dqn.device import torch_threads
from dqn.evaluation import bootstrap_interval, episodic_returns, interquartile_mean
from dqn.presets import PRESETS
from dqn.selection import greedy_returns
from dqn.training import train
from flows.search.shard import run_shard
from flows.search.spaces import SPACES
from flows.search.study import RUNGS, Method, SweepConfig, begin_study, configuration, ranking, read_study

SEEDS: Final = 16
_PEER_EVALUATIONS: Final = 10


def main() -> None:
    """Measure what is asked for, print it and write it to `results/sweep_<what>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "peer", "worth", "workers"])
    parser.add_argument("--trials", type=int, default=1_024)
    parser.add_argument("--studies", type=int, default=8, help="of each method, for worth")
    parser.add_argument("--seconds", type=float, default=300.0, help="for peer")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warm_up()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["OPTUNA_STORAGE"] = f"sqlite:///{directory}/optuna.db"
        if arguments.what == "cost":
            rows = cost(arguments.trials, Path(directory))
        elif arguments.what == "peer":
            rows = [peer(arguments.seconds)]
        elif arguments.what == "workers":
            rows = workers(arguments.trials, Path(directory))
        else:
            rows = worth(arguments.studies, arguments.trials, Path(directory))
    print(table(rows))
    print(f"written to {write(f'sweep_{arguments.what}', rows)}")


def cost(trials: int, directory: Path) -> list[dict[str, Any]]:
    """The search, and one training of the peer before and after it."""
    before = rl_zoo(secrets.randbits(31)).cpu_seconds
    sweep = _sweep("tpe", trials, shard_trials=128)
    cpu, wall = time.process_time(), time.perf_counter()
    _search(sweep, directory)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = rl_zoo(secrets.randbits(31)).cpu_seconds
    return [
        {
            "configurations": trials,
            "CPU-s": cpu,
            "wall s": wall,
            "a minute of CPU": 60 * trials / cpu,
            "a minute": 60 * trials / wall,
            "Stable-Baselines3 CPU-s": (before + after) / 2,
            "trainings of it": 2 * cpu / (before + after),
        }
    ]


def workers(trials: int, directory: Path) -> list[dict[str, Any]]:
    """Wall seconds of the same shards by one process on a core, and by two; each has imported everything before."""
    rows: list[dict[str, Any]] = []
    for count in (1, 2):
        sweep = _sweep("random", trials, shard_trials=64, seed=1)
        study = begin_study(secrets.token_hex(8), sweep).study_name
        processes = get_context("spawn")
        ready, go = processes.Barrier(count + 1), processes.Barrier(count + 1)
        team = [
            processes.Process(target=_work, args=(worker, count, study, directory, ready, go))
            for worker in range(count)
        ]
        for process in team:
            process.start()
        ready.wait()
        go.wait()
        began = time.perf_counter()
        for process in team:
            process.join()
        seconds = time.perf_counter() - began
        if any(process.exitcode for process in team):
            raise SystemExit("a worker failed: its traceback stands above")
        rows.append(
            {"workers": count, "wall s": seconds, "times as fast": rows[0]["wall s"] / seconds if rows else 1.0}
        )
    return rows


def _work(worker: int, count: int, study_name: str, directory: Path, ready: Barrier, go: Barrier) -> None:
    """Every shard of a worker, on a core of its own."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[worker]})
    warm_up()
    study, sweep = read_study(study_name)
    ready.wait()
    go.wait()
    for shard in range(worker, sweep.shards, count):
        run_shard(study, sweep, shard, directory=directory)


def worth(studies: int, trials: int, directory: Path) -> list[dict[str, Any]]:
    """Winners of either method, whose budgets are equal, and the preset: one population of each a study."""
    updates: dict[str, list[float]] = {"tpe": [], "random": [], "preset": []}
    returns: dict[str, list[float]] = {name: [] for name in updates}
    methods: tuple[Method, ...] = ("tpe", "random")
    for _ in range(studies):
        seed = secrets.randbits(28)
        configs = {"preset": PRESETS["cartpole"]}
        for method in methods:
            sweep = _sweep(method, trials, shard_trials=32, seed=seed)
            configs[method] = _search(sweep, directory)
        for name, config in configs.items():
            spent, returned = _judged(config)
            updates[name].append(spent)
            returns[name].append(returned)
            print(f"{name}: {spent:.0f} updates, return {returned:.1f}", flush=True)
    return [_row(name, updates[name], returns[name]) for name in updates]


def peer(seconds: float) -> dict[str, Any]:
    """Optuna with Stable-Baselines3's DQN: TPE and the median pruner as rl-baselines3-zoo sets them up.

    Ten startup trials, and no pruning before a third of a trial's evaluations. The budget is rl-zoo's own training.
    """
    from stable_baselines3 import DQN

    settings = RL_ZOO[ENV_ID]
    steps = settings["total_timesteps"] // _PEER_EVALUATIONS
    pruner = optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=_PEER_EVALUATIONS // 3)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=10), pruner=pruner
    )

    def objective(trial: optuna.Trial) -> float:
        fixed = {name: value for name, value in settings.items() if name != "total_timesteps"}
        chosen = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1.0, log=True),
            "gamma": 1 - trial.suggest_float("one_minus_gamma", 1e-4, 0.1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64, 100, 128, 256, 512]),
            "exploration_final_eps": trial.suggest_float("exploration_final_eps", 0.0, 0.2),
        }
        model = DQN("MlpPolicy", ENV_ID, device="cpu", policy_kwargs={"net_arch": [256, 256]}, **(fixed | chosen))
        mean = 0.0
        for evaluation in range(_PEER_EVALUATIONS):
            model.learn(steps, reset_num_timesteps=evaluation == 0)
            returns = episodic_returns(
                lambda o: model.predict(o, deterministic=True)[0], ENV_ID, num_episodes=5, seed=secrets.randbits(28)
            )
            mean = float(returns.mean())
            trial.report(mean, evaluation)
            if trial.should_prune():
                raise optuna.TrialPruned
        return mean

    cpu, wall = time.process_time(), time.perf_counter()
    with torch_threads(1):
        study.optimize(objective, timeout=seconds)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "configurations": len(study.trials),
        "CPU-s": cpu,
        "wall s": wall,
        "a minute of CPU": 60 * len(study.trials) / cpu,
        "a minute": 60 * len(study.trials) / wall,
        "best return": study.best_value,
    }


def _sweep(method: Method, trials: int, *, shard_trials: int, seed: int = 0) -> SweepConfig:
    return SweepConfig(
        space=SPACES["small"],
        method=method,
        trials=trials,
        shard_trials=shard_trials,
        rungs=RUNGS["cartpole"],
        seed=seed or secrets.randbits(28),
    )


def _search(sweep: SweepConfig, directory: Path) -> DQNConfig:
    study = begin_study(secrets.token_hex(8), sweep)
    for shard in range(sweep.shards):
        run_shard(study, sweep, shard, directory=directory)
    return configuration(ranking(study.get_trials(deepcopy=False), sweep.rungs)[0], sweep)


def _judged(config: DQNConfig) -> tuple[float, float]:
    """Interquartile means over fresh agents: updates until accepted, and return on unseen episodes."""
    often: dict[str, Any] = {"eval_start": 50, "eval_interval": 25, "acceptance_return": CEILING}
    result = train(dataclasses.replace(config, num_agents=SEEDS, seed=secrets.randbits(31), max_updates=2_000, **often))
    with torch.no_grad(), torch_threads(1):
        returns = greedy_returns(result.best, ENV_ID, episodes=EPISODES, seed=secrets.randbits(28)).numpy()
    updates = np.array([agent.updates for agent in result.agents], dtype=np.float64)
    return interquartile_mean(updates), interquartile_mean(returns.mean(1))


def _row(name: str, updates: list[float], returns: list[float]) -> dict[str, Any]:
    low, high = bootstrap_interval(np.array(updates), seed=0)
    return {
        "who": name,
        "studies": len(updates),
        "IQM updates": interquartile_mean(np.array(updates)),
        "low": low,
        "high": high,
        "IQM return": interquartile_mean(np.array(returns)),
        "worst return": min(returns),
    }


if __name__ == "__main__":
    main()
