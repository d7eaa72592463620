"""Sweeps: the cost of a configuration, and the gain by the search and by its winner.

    python -m benchmarks.sweep cost                       # 1,024 configurations beside one Stable-Baselines3 training
    python -m benchmarks.sweep peer                       # Optuna with Stable-Baselines3 for five minutes
    python -m benchmarks.sweep worth --studies 8 --trials 64 [--preset acrobot --updates 2000]

`worth` compares the winners of the search with those of random search and with the preset, all trained again on new
seeds. On CartPole, 16 agents of each are judged by the updates until they are accepted; they are evaluated every 25
updates from the 50th on. An agent that is never accepted counts with the whole budget. In other environments, 4 agents
are judged by their return after the last rung; `--updates` sets that rung. Costs are CPU-seconds of this process on one
thread. They include Optuna's storage (SQLite), but no imports.
"""

import argparse
import dataclasses
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import optuna
import torch

from benchmarks.contestants import ENV_ID, EPISODES, rl_zoo, warm_up
from benchmarks.harness import table, write
from benchmarks.peers import RL_ZOO
from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import episodic_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.presets import PRESETS, PresetName
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from flows.search.settings import RUNGS, Method, SweepConfig
from flows.search.shard import run_shard
from flows.search.spaces import SPACES
from flows.search.study import begin_study
from flows.search.trials import configuration, ranking

SEEDS: Final = 16
_FEWER_SEEDS: Final = 4
_PEER_EVALUATIONS: Final = 10


def main() -> None:
    """Measure, print the table and write it to `results/sweep_<what>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "peer", "worth"])
    parser.add_argument("--trials", type=int, default=1_024)
    parser.add_argument("--preset", choices=list(RUNGS), default="cartpole", help="for worth")
    parser.add_argument("--updates", type=int, default=0, help="of a trial, for worth; 0 takes the preset's rungs")
    parser.add_argument("--finalists", type=int, default=4, help="for worth")
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
        else:
            settings = {name: getattr(arguments, name) for name in ("preset", "trials", "finalists")}
            rows = worth(arguments.studies, arguments.updates, Path(directory), **settings)
    print(table(rows))
    name = f"sweep_{arguments.what}" + f"_{arguments.preset}" * (arguments.what == "worth")
    print(f"written to {write(name, rows)}")


def cost(trials: int, directory: Path) -> list[dict[str, Any]]:
    """The search, and one training of the peer before and after it."""
    before = rl_zoo(secrets.randbits(31)).cpu_seconds
    sweep = cartpole_sweep("tpe", trials, shard_trials=128)
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


def worth(
    studies: int, updates: int, directory: Path, *, preset: PresetName, trials: int, finalists: int
) -> list[dict[str, Any]]:
    """The winners of both methods, with equal budgets, and the preset: one population of each for each study."""
    rungs = tuple(updates // share for share in (8, 4, 2, 1)) if updates else RUNGS[preset]
    judged: dict[str, list[tuple[float, float]]] = {"tpe": [], "random": [], "preset": []}
    methods: tuple[Method, ...] = ("tpe", "random")
    for _ in range(studies):
        seed = secrets.randbits(28)
        configs = {"preset": PRESETS[preset]}
        for method in methods:
            sweep = SweepConfig(
                preset=preset,
                space=SPACES["small"],
                method=method,
                trials=trials,
                shard_trials=max(8, trials // 4),
                rungs=rungs,
                finalists=finalists,
                seed=seed,
            )
            configs[method] = _search(sweep, directory)
        for name, config in configs.items():
            judged[name].append(_judged(config, rungs[-1]))
            print(f"{name}: {judged[name][-1][0]:.0f} updates, return {judged[name][-1][1]:.1f}", flush=True)
    return [_row(name, np.array(mine)) for name, mine in judged.items()]


def peer(seconds: float) -> dict[str, Any]:
    """Optuna with Stable-Baselines3's DQN: TPE and the median pruner with the settings of rl-baselines3-zoo.

    There are ten startup trials, and no pruning before a third of a trial's evaluations. A trial has the budget of
    rl-zoo's own training.
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


def cartpole_sweep(method: Method, trials: int, *, shard_trials: int, seed: int = 0) -> SweepConfig:
    """A sweep of the small space."""
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
    for shard in range(sweep.shards + 1):
        run_shard(study, sweep, shard, directory=directory)
    return configuration(ranking(study.get_trials(deepcopy=False), sweep.rungs)[0], sweep)


def _judged(config: DQNConfig, updates: int) -> tuple[float, float]:
    """Interquartile means over fresh agents: updates until accepted, and return on unseen episodes."""
    changes: dict[str, Any]
    agents, changes = _FEWER_SEEDS, {"max_updates": updates, "eval_start": updates, "acceptance_episodes": 1}
    if config.acceptance_return is not None:
        agents, changes = SEEDS, {"max_updates": 2_000, "eval_start": 50, "eval_interval": 25}
    result = train(dataclasses.replace(config, num_agents=agents, seed=secrets.randbits(31), **changes))
    with torch.no_grad(), torch_threads(1):
        seed = secrets.randbits(28)
        returns = greedy_returns(result.best, config.env_id, episodes=EPISODES, seed=seed).numpy().mean(1)
    spent = np.array([agent.updates for agent in result.agents], dtype=np.float64)
    return interquartile_mean(spent), interquartile_mean(returns)


def _row(name: str, judged: npt.NDArray[np.float64]) -> dict[str, Any]:
    """A row of the table, from updates and returns `[studies, 2]`."""
    row: dict[str, Any] = {"who": name, "studies": len(judged)}
    for what, values in zip(("updates", "return"), judged.T, strict=True):
        low, high = bootstrap_interval(values, seed=0)
        row |= {f"IQM {what}": interquartile_mean(values), f"{what} from": low, f"{what} to": high}
    return {**row, "worst return": float(judged[:, 1].min())}


if __name__ == "__main__":
    main()
