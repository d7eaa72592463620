"""Dr. DRL's 60 runs of DQN on CartPole, in their dynamics, through this project's loop and by training.

    git clone https://github.com/ahmedhajyahmed/DrDRL
    python -m benchmarks.drift_worlds "DrDRL/experimental_results/final_sheet DQN cartepole.xlsx"
    python -m benchmarks.drift_worlds "..." --frugal          # their budget: one agent, 200 episodes

A champion of the preset `cartpole`, trained in Gymnasium's CartPole-v1, plays the show of `make serve`. The drift of a
run is then made in mid-episode, and the loop identifies, rehearses and chooses as it would in a server. If what it
chooses returns less than 195 on average, eight agents are trained in the drifted environment from the champion's
network, as in an adaptation, and their best one is judged. A mean is of 101 episodes of at most 200 steps, as theirs;
the operating system draws their seeds after training. A linear policy of four numbers is searched for in each run too.

With `--frugal` there is no loop. One agent is trained from the champion's network in each run, in at most 200 episodes
like theirs, in eight sub-environments. The episodes of its evaluations are not counted, as theirs are not.
"""

import argparse
import asyncio
import dataclasses
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from benchmarks.contestants import warm_up
from benchmarks.drifted import HEALED, STEPS, Drift, Run, drift_in_place, published, registered
from benchmarks.harness import table, write
from benchmarks.healing import Watched
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import Act, episodic_returns
from dqn.networks.population import QNetworks
from dqn.presets import PRESETS
from dqn.stress.baselines import linear_policy, search_linear
from dqn.stress.finalists import stressed
from dqn.training.loop import train
from dqn.training.state import TrainingState
from serving.episodes.simulation import Policy
from serving.models.follower import Models
from serving.models.source import FileSource

EPISODES: Final = 101
NUM_AGENTS: Final = 8
MAX_UPDATES: Final = 2_000
"""As in an adaptation."""
HEALABLE: Final = 0.04
"""A run is out of reach if more starts than this are lost: a lost one returns some 70."""
FRUGAL: Final = {
    "num_agents": 1,
    "num_envs": 8,
    "updates_per_step": 2,
    "max_episodes": 200,
    "max_updates": 4_000,
    "epsilon_end": 0.1,
    "epsilon_decay_updates": 800,
    "learning_rate_decay_updates": 2_400,
    "eval_start": 600,
}
"""Changes to the preset for their budget of episodes."""
_STARTS: Final = 20_000
_FASTEST: Final = 3.0
_CELL: Final = 5e-4


def main() -> None:
    """Measure run by run, print the rows and their summary, and write them to `results/drift_worlds.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workbook", type=Path, help="of their results, in a copy of their repository")
    parser.add_argument("--frugal", action="store_true", help="train one agent in 200 episodes instead")
    parser.add_argument("--only", nargs="*", help="names of some runs, such as 0_0")
    options = parser.parse_args()
    runs = [run for run in published(options.workbook) if not options.only or run.name in options.only]
    torch.set_num_threads(1)
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "champion.onnx"
        network = champion(file)
        models = Models(FileSource(file), alias=None, version="1")
        asyncio.run(models.poll())
        rows = []
        for run in runs:
            rows.append(frugal(run, network) if options.frugal else row(run, network, models))
            print(*rows[-1].values(), sep=" | ", flush=True)
    total = frugal_summary(rows) if options.frugal else summary(rows)
    print(table(total))
    if not options.only:
        print(f"written to {write('drift_worlds_frugal' if options.frugal else 'drift_worlds', [*total, *rows])}")


def champion(file: Path) -> QNetworks:
    """Train the policy that a training on CartPole-v1 would register, export it to a file, and return its network."""
    result = stressed(train(dataclasses.replace(PRESETS["cartpole"], seed=secrets.randbits(31))))
    result.export(file)
    return result.best.select(torch.tensor([result.best_agent]))


def row(run: Run, network: QNetworks, models: Models) -> dict[str, Any]:
    """Everything measured of one run."""
    assert models.current
    env_id = registered(run)
    as_it_is = mean_return(acting(models.current.policy), env_id)
    watched = Watched(models, seed=secrets.randbits(16))
    drift_in_place(cast("CartPoleEnv", watched.show.players[0].simulation.env.unwrapped), run.drift)
    seconds, _ = watched.until_stands()
    playing = watched.loop.healing.playing
    looped = mean_return(acting(watched.loop.policy(models.current)), env_id)
    watched.show.close()
    trained = {} if looped >= HEALED else training(env_id, network)
    linear = linear_policy(search_linear(seed=secrets.randbits(28), max_episode_steps=STEPS, environment=env_id))
    final = trained.get("trained", looped)
    return {
        "run": run.name,
        "dynamics": run.drift.kind,
        "lost starts": round(lost_starts(run.drift), 3),
        "fine-tuned, published": round(run.fine_tuned, 1),
        "Dr. DRL, published": round(run.dr_drl, 1),
        "champion as it is": as_it_is,
        "loop": looped,
        "loop plays": (playing.name or "the champion as it is") if playing else "the champion, nothing explained",
        "noticed": watched.loop.latest is not None,
        "loop, s until it stands": seconds,
        "trained": trained.get("trained"),
        "training, CPU-s": trained.get("CPU-s"),
        "environment steps an agent": trained.get("steps"),
        "episodes an agent": trained.get("episodes"),
        "linear, searched": mean_return(linear, env_id),
        "healed by": "" if final < HEALED else "training" if trained else "the loop",
    }


def frugal(run: Run, network: QNetworks) -> dict[str, Any]:
    """One agent within their budget of episodes."""
    trained = training(registered(run), network, **FRUGAL)
    healed = "training" if trained["trained"] >= HEALED else ""
    return {"run": run.name, "dynamics": run.drift.kind, **trained, "healed by": healed}


def training(env_id: str, network: QNetworks, **changes: Any) -> dict[str, float]:
    """Train from a network, by default as in an adaptation, and judge the best agent."""
    given = {"num_agents": NUM_AGENTS, "max_updates": MAX_UPDATES} | changes
    config = dataclasses.replace(
        PRESETS["cartpole"],
        env_id=env_id,
        seed=secrets.randbits(31),
        acceptance_return=float(STEPS),
        acceptance_epsilon=0.0,
        **given,
    )
    began = time.process_time()
    result = train(config, state=TrainingState.begin(config, start=network))
    cpu_seconds = time.process_time() - began
    best = result.best.select(torch.tensor([result.best_agent]))
    returns = greedy_returns(best, env_id, episodes=EPISODES, seed=secrets.randbits(28))
    return {
        "trained": round(float(returns.mean()), 1),
        "CPU-s": round(cpu_seconds, 2),
        "steps": float(np.median([agent.environment_steps for agent in result.agents])),
        "episodes": float(np.median([agent.episodes for agent in result.agents])),
    }


def acting(policy: Policy) -> Act:
    """The greedy actions of a policy, or of what the loop has put in front of it, in new episodes."""
    if reset := getattr(policy, "reset", None):
        reset()
    return lambda observation: policy.q_values(observation).argmax(1)


def mean_return(act: Act, env_id: str) -> float:
    """Mean return of a policy in its test episodes."""
    return round(float(episodic_returns(act, env_id, num_episodes=EPISODES, seed=secrets.randbits(28)).mean()), 1)


def lost_starts(drift: Drift) -> float:
    """The share of initial states from which no sequence of actions balances the pole, nearly.

    Of the linearised pole, `z = theta + theta' / lambda` grows by the factor `1 + tau lambda` each step and is changed
    by the force alone, which depends on the cart's direction. `z` can be kept if it is at most the sum of all that a
    sequence of forces takes away, discounted by that factor; the greatest sum by the cart's speed is found by value
    iteration. The pole's weight on the cart, the cart's place and the angle's limit are left out.
    """
    if drift.masspole >= 4 / 3 * 1.1:
        return 0.0  # gravity balances it
    tau, mass = 0.02, 1.1
    inertia = drift.length * (4 / 3 - drift.masspole / mass)
    rate = np.sqrt(9.8 / inertia)
    speeds = np.arange(-_FASTEST, _FASTEST, _CELL) + _CELL / 2
    taken, to = [], []
    for motor in (-10.0, 10.0):
        force = motor - drift.friction * np.sign(speeds)
        faster = speeds + tau * force / mass * (1 + 0.05 / (mass * inertia))
        taken.append(tau * force / (mass * inertia * rate))
        to.append(np.clip(np.rint((faster - speeds[0]) / _CELL).astype(int), 0, len(speeds) - 1))
    greatest: npt.NDArray[np.float64] = np.zeros(len(speeds))
    for _ in range(STEPS):
        options = [less + greatest[next_] for less, next_ in zip(taken, to, strict=True)]
        greatest = np.maximum(*options) / (1 + tau * rate)
    _, speed, angle, turning = np.random.default_rng(0).uniform(-0.05, 0.05, (4, _STARTS))
    z = angle + turning / rate
    kept = (z <= np.interp(speed, speeds, greatest)) & (-z <= np.interp(-speed, speeds, greatest))
    return float(1 - kept.mean())


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many runs each contestant heals, and how many can be healed."""
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "this project, the loop and then training": lambda each: each["trained"] or each["loop"],
        "the loop alone": lambda each: each["loop"],
        "its champion as it is": lambda each: each["champion as it is"],
        "a searched linear policy": lambda each: each["linear, searched"],
        "Dr. DRL, published": lambda each: each["Dr. DRL, published"],
        "fine-tuning, published": lambda each: each["fine-tuned, published"],
        "limit: at most 4% of the starts lost": lambda each: STEPS * (each["lost starts"] <= HEALABLE),
    }
    trained = [each for each in rows if each["trained"] is not None]
    return [
        {
            "contestant": name,
            "healed": sum(of(each) >= HEALED for each in rows),
            "runs": len(rows),
            "trainings": len(trained) if "training" in name and "this" in name else "",
        }
        for name, of in columns.items()
    ]


def frugal_summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many runs are healed, and what the median healed one has cost."""
    healed = [each for each in rows if each["healed by"]]
    costs = {name: float(np.median([each[name] for each in healed])) for name in ("episodes", "steps", "CPU-s")}
    return [{"contestant": "one agent in 200 episodes", "healed": len(healed), "runs": len(rows), **costs}]


if __name__ == "__main__":
    main()
