"""Dr. DRL's runs of DQN on MountainCar and Acrobot, by what the closed loop does without equations of motion.

    git clone https://github.com/ahmedhajyahmed/DrDRL
    python -m benchmarks.drift_returns MountainCar-v0 "DrDRL/experimental_results/final sheet DQN MountainCar.xlsx"

A champion of the environment's preset is trained in Gymnasium's own environment. It then plays each drifted one of Haj
Yahmed et al. (2023, arXiv 2308.12445). Where it returns less than their tolerance on average, the world is identified
from 60 of its transitions, and agents are trained there from its network, as an adaptation does. The best of them
plays in the drifted environment. A mean is of 101 episodes, as theirs; the operating system draws their seeds after
training. Of Acrobot's parameters their code sets four, and so does this. First the champion plays in all runs; then
agents are trained in the order of the workbook, as many as `--trainings` says. Each row is written at once.
"""

import argparse
import dataclasses
import math
import secrets
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.harness import table, write
from benchmarks.workbook import runs
from dqn.config import DQNConfig
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.greedy import greedy_returns
from dqn.identification.by_step import identify_by_step
from dqn.identification.record import UnexplainedError
from dqn.networks.population import QNetworks, greedy_action
from dqn.presets import PRESETS
from dqn.training.checkpoint import load_networks, save_networks
from dqn.training.loop import train
from dqn.training.state import TrainingState
from flows.adaptation.beyond_cartpole import warm_config

EPISODES: Final = 101
HEALED: Final = {"MountainCar-v0": -121.0, "Acrobot-v1": -110.0}
"""Least mean return of a healed run: the reward threshold less their tolerance of a tenth."""
_SET: Final = {"link_length_1": "LINK_LENGTH_1", "link_mass_1": "LINK_MASS_1", "link_mass_2": "LINK_MASS_2"}
_SET_TOO: Final = {"link_com_pos_1": "LINK_COM_POS_1", "goal_velocity": "goal_velocity"}


def main() -> None:
    """Measure run by run, print the rows, and write them to `results/drift_returns_<environment>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=sorted(HEALED))
    parser.add_argument("workbook", type=Path, help="of their results, in a copy of their repository")
    parser.add_argument("--champion", type=Path, help="directory of its networks; trained and saved there if missing")
    parser.add_argument("--trainings", type=int, default=60, help="number of runs that are trained for")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = next(preset for preset in PRESETS.values() if preset.env_id == options.environment)
    champion, spent = champion_of(source, options.champion)
    print(f"champion: {spent:.0f} CPU-s", flush=True)
    healed, name = HEALED[options.environment], f"drift_returns_{options.environment.split('-')[0].lower()}"
    rows = [row_of(run, judged(champion, options.environment, world_of(run))) for run in runs(options.workbook)]
    say(rows, healed)
    for row in [row for row in rows if row["champion"] < healed][: options.trainings]:
        adapt(row, champion, source)
        print({column: value for column, value in row.items() if column != "world"}, flush=True)
        write(name, rows)
    write(name, rows)
    print(table([{column: value for column, value in row.items() if column != "world"} for row in rows]))
    say(rows, healed)


def champion_of(source: DQNConfig, directory: Path | None) -> tuple[QNetworks, float]:
    """The best of four agents of the preset, from the directory if it is there, and its CPU seconds."""
    if directory and directory.exists():
        return load_networks(directory)[0], 0.0
    began = time.process_time()
    result = train(dataclasses.replace(source, num_agents=4, seed=secrets.randbits(31)))
    best = result.best.select(torch.tensor([result.best_agent]))
    if directory:
        directory.mkdir(parents=True)
        save_networks(directory, best, dataclasses.replace(source, num_agents=1))
    return best, time.process_time() - began


def world_of(run: dict[str, Any]) -> World:
    """The drifted environment of a run."""
    fields = {"gravity": run["gravity"], "force_mag": run["force"]} if "force" in run else {}
    attributes = {own: run[name] for name, own in (_SET | _SET_TOO).items() if name in run}
    return World(**fields, attributes=attributes)


def row_of(run: dict[str, Any], returned: float) -> dict[str, Any]:
    """A run before any training."""
    return {
        "run": run["instance"],
        "champion": returned,
        "trained": math.nan,
        "fine-tuned": run.get("vanilla_average_reward", run.get("cl_average_reward")),
        "Dr. DRL": run["pruning_average_reward"],
        "CPU-s": 0.0,
        "identified": "",
        "world": world_of(run).to_dict(),
    }


def adapt(row: dict[str, Any], champion: QNetworks, source: DQNConfig) -> None:
    """Identify the drifted environment of a row and train there; what is found is added to the row."""
    world, began = World.from_dict(row["world"]), time.process_time()
    try:
        found = identify_by_step(source.env_id, NOMINAL, *record(champion, source.env_id, world))
    except UnexplainedError as error:
        row["identified"] = f"refused: {error}"
        return
    row["identified"] = str(found)
    config = warm_config(source, found, seed=secrets.randbits(31))
    result = train(config, state=TrainingState.begin(config, start=champion))
    row["CPU-s"] = time.process_time() - began
    row["trained"] = judged(result.best.select(torch.tensor([result.best_agent])), source.env_id, world)


def say(rows: list[dict[str, Any]], healed: float) -> None:
    """How many runs are healed; the gate keeps the champion where it is better."""
    tried = [row for row in rows if row["champion"] >= healed or row["identified"]]
    for what, those in (("all", rows), ("the champion healed or agents were trained for", tried)):
        best = sum(
            max(row["champion"], -math.inf if math.isnan(row["trained"]) else row["trained"]) >= healed for row in those
        )
        others = [
            f"{name} {sum(row[name] >= healed for row in those)}" for name in ("champion", "fine-tuned", "Dr. DRL")
        ]
        print(f"of {len(those)} runs, {what}, healed: this project {best}, {', '.join(others)}", flush=True)


def judged(networks: QNetworks, env_id: str, world: World) -> float:
    """Mean return of a greedy policy in a world."""
    with torch.no_grad():
        return float(greedy_returns(networks, env_id, world, episodes=EPISODES, seed=secrets.randbits(31)).mean())


def record(champion: QNetworks, env_id: str, world: World, *, steps: int = 60) -> tuple[Any, Any, Any]:
    """Observations, actions and next observations of the champion in a world."""
    env = make(env_id, world)
    columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    observation, _ = env.reset(seed=secrets.randbits(31))
    for _ in range(steps):
        with torch.no_grad():
            action = int(greedy_action(champion(torch.as_tensor(observation)[None, None])).item())
        following, _, terminated, truncated, _ = env.step(action)
        for column, value in zip(columns, (observation, action, following), strict=True):
            column.append(value)
        observation = env.reset()[0] if terminated or truncated else following
    observed, actions, arrived = columns
    return np.array(observed, float), np.array(actions), np.array(arrived, float)


if __name__ == "__main__":
    main()
